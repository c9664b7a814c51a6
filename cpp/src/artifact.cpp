// From bytes to a model that is known to be whole: container, record, shapes. The twin of artifact.py.

#include "artifact.h"

#include <climits>
#include <cstring>

#include "error.h"
#include "mapping.h"
#include "parameters.h"
#include "record.h"
#include "safetensors.h"
#include "sentence.h"
#include "sha256.h"
#include "values.h"

// Weights are little-endian and copied as they are.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "swinv2 reads its weights on little-endian processors only"
#endif

namespace swinv2 {
namespace {

const char* const key = "swinv2";  // of the record in the metadata

[[noreturn]] void refuse(const std::string& sentence) { throw Error(SWINV2_BAD_MODEL, sentence); }

size_t bytes_per_value(Type type) {
  switch (type) {
    case Type::f16:
    case Type::bf16: return 2;
    case Type::f32: return 4;
    case Type::f64: return 8;
    case Type::other: break;
  }
  return 0;
}

template <class Stored, class Convert>
void convert(float* out, const unsigned char* data, int64_t values, Convert to_float) {
  for (int64_t i = 0; i < values; i++) {
    Stored value;
    std::memcpy(&value, data + static_cast<size_t>(i) * sizeof value, sizeof value);
    out[i] = to_float(value);
  }
}

}  // namespace

int64_t Tensor::values() const {
  int64_t product = 1;
  for (int64_t length : shape) product *= length;  // cannot overflow: the bytes are in a file
  return product;
}

Artifact Artifact::open(const std::string& path) {
  auto mapping = std::make_shared<Mapping>(path);
  Artifact artifact = parse(mapping->bytes(), mapping->size(), path);
  artifact.mapping_ = std::move(mapping);
  return artifact;
}

Artifact Artifact::parse(const unsigned char* bytes, size_t size, const std::string& name) {
  Container container = read_safetensors(bytes, size, name);
  const auto found = container.metadata.find(key);
  if (found == container.metadata.end()) {
    refuse(name +
           " holds weights without a swinv2 record (preprocessing, class names); run `swinv2 convert " +
           name + " model.safetensors` once and use its result");
  }
  Record record = read_record(found->second, name);
  Artifact artifact;
  artifact.config = std::move(record.config);
  artifact.preprocess = std::move(record.preprocess);
  artifact.classes = std::move(record.classes);
  artifact.record = std::move(found->second);
  artifact.name_ = name;
  artifact.tensors_ = std::move(container.tensors);
  artifact.sha256_ = std::move(record.tensors_sha256);
  artifact.check_shapes();
  if (artifact.sha256_.empty()) {
    refuse(name + " is damaged: its record has no hash of the weights; copy or download it again");
  }
  return artifact;
}

void Artifact::check_shapes() const {
  const std::string architecture = shown(config.architecture);
  uint64_t blocks = 0;
  for (int depth : config.depths) blocks += static_cast<uint64_t>(depth);
  if (blocks > tensors_.size()) {  // a damaged record may say many; do not list their parameters
    refuse(name_ + " lacks blocks: " + std::to_string(tensors_.size()) + " tensors are too few for " +
           with_commas(blocks));
  }
  std::map<std::string, const std::vector<int64_t>*> expected;
  const std::vector<Parameter> all = parameters(config);
  for (const Parameter& parameter : all) expected[parameter.name] = &parameter.shape;

  std::vector<std::string> missing, unknown;
  for (const auto& [name, shape] : expected) {
    if (!has(name)) missing.push_back(name);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (!expected.count(name)) unknown.push_back(name);
  }
  if (!missing.empty()) {
    refuse(name_ + " lacks " + std::to_string(missing.size()) + " parameters of " + architecture +
           ", the first is " + missing[0]);
  }
  if (!unknown.empty()) {
    refuse(name_ + " holds " + std::to_string(unknown.size()) + " tensors that " + architecture +
           " does not have, the first is " + shown(unknown[0]));
  }
  for (const Parameter& parameter : all) {
    const Tensor& tensor = tensors_.at(parameter.name);
    if (tensor.shape != parameter.shape) {
      refuse(name_ + ": " + parameter.name + " has shape " + shown(tensor.shape) + ", " + architecture +
             " wants " + shown(parameter.shape));
    }
    if (tensor.type == Type::other) {
      refuse(name_ + ": " + parameter.name +
             " is of a type that is not read here; store weights as F32, F16, BF16 or F64");
    }
    if (tensor.values() > INT_MAX)
      refuse(name_ + ": " + parameter.name + " has more values than are computed");
  }
}

void Artifact::read(const std::string& name, const std::vector<int64_t>& shape, float* out) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) refuse(name_ + " lacks " + name);
  const Tensor& tensor = found->second;
  if (tensor.shape != shape) {
    refuse(name_ + ": " + name + " has shape " + shown(tensor.shape) + ", " + shown(shape) + " is wanted");
  }
  const int64_t values = tensor.values();
  switch (tensor.type) {
    case Type::f32: std::memcpy(out, tensor.data, static_cast<size_t>(values) * 4); break;
    case Type::f16: convert<uint16_t>(out, tensor.data, values, float_of_f16); break;
    case Type::bf16: convert<uint16_t>(out, tensor.data, values, float_of_bf16); break;
    case Type::f64: convert<double>(out, tensor.data, values, float_of_f64); break;
    case Type::other: throw Error(SWINV2_INTERNAL, name_ + ": " + name + " is of a type that is not read");
  }
}

std::vector<float> Artifact::read(const std::string& name, const std::vector<int64_t>& shape) const {
  int64_t values = 1;
  if (const auto found = tensors_.find(name); found != tensors_.end()) values = found->second.values();
  std::vector<float> out(static_cast<size_t>(values));
  read(name, shape, out.data());
  return out;
}

void Artifact::forget() const {
  if (mapping_) mapping_->forget();
}

// Names in sorted order, each followed by its bytes; a std::map is in the order of Python's sorted().
void Artifact::check_hash() const {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors_) {
    hash.add(name.data(), name.size());
    hash.add(tensor.data, static_cast<size_t>(tensor.values()) * bytes_per_value(tensor.type));
  }
  if (hash.hex() != sha256_) {
    refuse(name_ + " is damaged: its weights do not have the hash it records; copy or download it again");
  }
}

}  // namespace swinv2
