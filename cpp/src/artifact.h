// The model file: safetensors whose metadata holds the record. Mapped, not copied; nothing in it is trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.h"

namespace swinv2 {

// other: a type that no weight of ours has
enum class Type { f32, f16, bf16, f64, other };

struct Tensor {
  Type type;
  std::vector<int64_t> shape;
  const unsigned char* data;  // not aligned to more than a byte
  int64_t values() const;
};

class Mapping;  // the bytes of a file, read-only

// An open model file. The tensors point into it. All that Python refuses is refused here: a file that is open
// has exactly the tensors of its architecture, each of a type that is read and of less than 2^31 values
// (record.h has the limits).
class Artifact {
 public:
  static Artifact open(const std::string& path);  // throws Error
  // bytes must outlive the artifact; name is for sentences about it.
  static Artifact parse(const unsigned char* bytes, size_t size, const std::string& name);

  Config config;
  Preprocess preprocess;
  std::vector<std::string> classes;  // names; empty where nobody named them
  std::string record;                // the JSON text

  // Throws Error where the weights do not have the hash that the record states. Opening leaves it out, because
  // it reads every byte: some 0.3 s for each 100 MB.
  void check_hash() const;

  // The values of a tensor as floats, out[product of shape]. Throws Error where it is missing or has another
  // shape.
  void read(const std::string& name, const std::vector<int64_t>& shape, float* out) const;
  std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape) const;
  // The pages of the file that were read so far count as memory of this program no longer.
  void forget() const;
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

 private:
  void check_shapes() const;

  std::string name_;
  std::shared_ptr<Mapping> mapping_;
  std::map<std::string, Tensor> tensors_;
  std::string sha256_;
};

}  // namespace swinv2
