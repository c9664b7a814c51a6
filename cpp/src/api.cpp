// The C interface: arguments checked, exceptions turned into a status and a sentence.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "image/image.h"
#include "mapping.h"
#include "network.h"
#include "record.h"
#include "swinv2.h"

#ifndef SWINV2_RELEASE
#define SWINV2_RELEASE "0.0.0"
#endif

using namespace swinv2;

struct swinv2_model {
  std::mutex mutex;
  Config config;
  Preprocess preprocess;
  std::vector<std::string> names;
  std::string record, architecture, precision;
  std::unique_ptr<Network> network;  // null where only the record was opened
  swinv2_info info{};
};

namespace {

#if defined(__EMSCRIPTEN__) && !defined(__EMSCRIPTEN_PTHREADS__)
constexpr int MOST_THREADS = 1;
#else
constexpr int MOST_THREADS = 1024;
#endif
constexpr int64_t MOST_PIXELS = int64_t{1} << 28;  // of one image, 16384 x 16384

// In a function of its own: Clang 14 ends the program where a handler for WebAssembly names a thread_local itself.
std::string& last_error() {
  thread_local std::string sentence;
  return sentence;
}

template <class Work>
int guarded(const Work& work) noexcept {
  try {
    return work();
  } catch (const Error& error) {
    last_error() = error.what();
    return error.status;
  } catch (const std::bad_alloc&) {
    try {
      last_error() = "there is not enough memory";
    } catch (...) {
    }
    return SWINV2_NO_MEMORY;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return SWINV2_INTERNAL;
  }
}

[[noreturn]] void refuse(const std::string& sentence) { throw Error(SWINV2_BAD_ARGUMENT, sentence); }

void need(const void* pointer, const char* name) {
  if (!pointer) refuse(std::string(name) + " is NULL");
}

const Kernels& choose(const char* wanted) {
  const Kernels* const* tables;
  const int count = kernel_tables(&tables);
  if (!wanted || !*wanted) return *tables[0];
  std::string names;
  for (int i = 0; i < count; i++) {
    if (!std::strcmp(tables[i]->name, wanted)) return *tables[i];
    names += (i ? ", " : "") + std::string(tables[i]->name);
  }
  throw Error(SWINV2_UNSUPPORTED,
              "instructions are \"" + std::string(wanted) + "\"; this processor and build have " + names);
}

Precision precision_of(const std::string& name, const Kernels& kernels) {
  if (name == "fp32") return Precision::fp32;
  if (name != "bf16" && name != "int8") refuse("precision is \"" + name + "\"; give fp32, bf16 or int8");
  if (!(name == "bf16" ? kernels.bf16 : kernels.int8))
    throw Error(SWINV2_UNSUPPORTED, "the " + std::string(kernels.name) +
                                        " instructions have no products of " + name + "; use fp32");
  return name == "bf16" ? Precision::bf16 : Precision::int8;
}

// Options with their defaults filled in.
struct Choice {
  const Kernels& kernels;
  std::string precision_name;
  Precision precision;
  int threads;
};

Choice choice_of(const swinv2_options* options) {
  const swinv2_options given = options ? *options : swinv2_options{};
  if (given.version != 0 && given.version != SWINV2_VERSION)
    refuse("options.version is " + std::to_string(given.version) + "; this library has " +
           std::to_string(SWINV2_VERSION));
  if (given.threads < 0 || given.threads > MOST_THREADS)
    refuse("threads is " + std::to_string(given.threads) + "; give 1 to " + std::to_string(MOST_THREADS) +
           ", or 0 for the processor's cores");
  const Kernels& kernels = choose(given.instructions);
  const std::string name = given.precision && *given.precision ? given.precision : "fp32";
  const int threads = given.threads ? given.threads : std::min(processor_cores(), MOST_THREADS);
  return {kernels, name, precision_of(name, kernels), threads};
}

// What a file and a record alone both say.
std::unique_ptr<swinv2_model> model_of(const Config& config, const Preprocess& preprocess,
                                       const std::vector<std::string>& classes, const std::string& record) {
  auto model = std::make_unique<swinv2_model>();
  model->config = config;
  model->preprocess = preprocess;
  model->record = record;
  model->architecture = config.architecture;
  for (int i = 0; i < config.num_classes; i++)
    model->names.push_back(classes.empty() ? "class " + std::to_string(i) : classes[static_cast<size_t>(i)]);
  swinv2_info& info = model->info;
  info.architecture = model->architecture.c_str();
  info.precision = info.instructions = "";
  info.classes = config.num_classes ? config.num_classes : config.features();
  info.channels = config.in_chans;
  info.height = preprocess.size.rows;
  info.width = preprocess.size.cols;
  info.stages = static_cast<int>(config.depths.size());
  return model;
}

std::unique_ptr<swinv2_model> model_of(const Artifact& artifact, const Choice& choice) {
  auto model = model_of(artifact.config, artifact.preprocess, artifact.classes, artifact.record);
  model->precision = choice.precision_name;
  model->network = std::make_unique<Network>(artifact, choice.kernels, choice.precision, choice.threads);
  swinv2_info& info = model->info;
  info.precision = model->precision.c_str();
  info.instructions = choice.kernels.name;
  info.threads = model->network->threads();
  info.weight_bytes = model->network->weight_bytes();
  return model;
}

void need_weights(const swinv2_model& model) {
  if (!model.network)
    refuse("the model was opened without weights, from a record; swinv2_open a model file to compute here");
}

void check_size(int64_t batch, int height, int width) {
  if (batch < 1 || height < 1 || width < 1)
    refuse("images are " + std::to_string(batch) + " of " + std::to_string(height) + " x " +
           std::to_string(width) + " pixels; give at least one of each");
  if (int64_t{height} * width > MOST_PIXELS)
    refuse("images have " + std::to_string(int64_t{height} * width) + " pixels; give at most " +
           std::to_string(MOST_PIXELS));
}

View view_of(const swinv2_model& model, const uint8_t* pixels, int width, int height, ptrdiff_t row_bytes) {
  need(pixels, "rgb");
  if (width < 1 || height < 1)
    refuse("the picture is " + std::to_string(width) + " x " + std::to_string(height) +
           " pixels; it needs one at least");
  const int channels = model.config.in_chans;
  if (!row_bytes) row_bytes = static_cast<ptrdiff_t>(width) * channels;
  if ((row_bytes < 0 ? -row_bytes : row_bytes) < static_cast<ptrdiff_t>(width) * channels)
    refuse("row_bytes is " + std::to_string(row_bytes) + "; a row has " +
           std::to_string(static_cast<int64_t>(width) * channels));
  return {pixels, width, height, channels, row_bytes};
}

std::vector<float> room(const swinv2_model& model) {
  return std::vector<float>(static_cast<size_t>(model.info.channels) *
                            static_cast<size_t>(model.info.height) * static_cast<size_t>(model.info.width));
}

void prepare_bytes(const swinv2_model& model, const void* bytes, size_t size, float* tensor) {
  need(bytes, "bytes");
  if (model.config.in_chans != 1 && model.config.in_chans != 3)
    throw Error(SWINV2_UNSUPPORTED, "the model takes " + std::to_string(model.config.in_chans) +
                                        " channels, a picture has 1 or 3; use swinv2_run");
  const Image image = decode(static_cast<const unsigned char*>(bytes), size, model.config.in_chans);
  prepare({image.pixels.data(), image.width, image.height, image.channels,
           static_cast<ptrdiff_t>(image.width) * image.channels},
          model.preprocess, tensor);
}

void check_ranking(const swinv2_model& model, int k, const swinv2_score* top) {
  need(top, "top");
  if (k < 1) refuse("k is " + std::to_string(k) + "; give at least 1");
  if (!model.config.num_classes) refuse("the model has no classes, only features; use swinv2_run");
}

bool finite(const float* logits, int classes) {
  return std::all_of(logits, logits + classes, [](float logit) { return std::isfinite(logit); });
}

int rank(const swinv2_model& model, const float* logits, int k, swinv2_score* top) {
  const int classes = model.info.classes, count = std::min(k, classes);
  std::vector<int> order(static_cast<size_t>(classes));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](int a, int b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  const double largest = logits[order[0]];
  double total = 0;
  for (int i = 0; i < classes; i++) total += std::exp(logits[i] - largest);
  for (int i = 0; i < count; i++) {
    const int index = order[static_cast<size_t>(i)];
    top[i] = {index, static_cast<float>(std::exp(logits[index] - largest) / total),
              model.names[static_cast<size_t>(index)].c_str()};
  }
  return count;
}

int top_of(swinv2_model& model, const std::vector<float>& tensor, int k, swinv2_score* top) {
  check_ranking(model, k, top);
  std::vector<float> logits(static_cast<size_t>(model.info.classes));
  {
    std::lock_guard<std::mutex> lock(model.mutex);
    model.network->run(tensor.data(), 1, model.info.height, model.info.width, logits.data());
  }
  if (!finite(logits.data(), model.info.classes))
    throw Error(SWINV2_INTERNAL, "the model's answer in " + model.precision + " is not finite; try fp32");
  return rank(model, logits.data(), k, top);
}

}  // namespace

extern "C" {

int swinv2_check(const swinv2_options* options) {
  return guarded([&]() -> int {
    choice_of(options);
    return SWINV2_OK;
  });
}

int swinv2_open(const char* path, const swinv2_options* options, swinv2_model** out) {
  return guarded([&]() -> int {
    need(out, "model");
    *out = nullptr;
    need(path, "path");
    const Choice choice = choice_of(options);
    *out = model_of(Artifact::open(path), choice).release();
    return SWINV2_OK;
  });
}

int swinv2_open_bytes(const void* bytes, size_t size, const swinv2_options* options, swinv2_model** out) {
  return guarded([&]() -> int {
    need(out, "model");
    *out = nullptr;
    need(bytes, "bytes");
    const Choice choice = choice_of(options);
    const Artifact artifact = Artifact::parse(static_cast<const unsigned char*>(bytes), size, "the model");
    *out = model_of(artifact, choice).release();
    return SWINV2_OK;
  });
}

int swinv2_open_record(const char* json, swinv2_model** out) {
  return guarded([&]() -> int {
    need(out, "model");
    *out = nullptr;
    need(json, "record");
    const Record record = read_record(json, "the model");
    *out = model_of(record.config, record.preprocess, record.classes, json).release();
    return SWINV2_OK;
  });
}

void swinv2_close(swinv2_model* model) { delete model; }

const swinv2_info* swinv2_describe(const swinv2_model* model) { return model ? &model->info : nullptr; }

const char* swinv2_class_name(const swinv2_model* model, int index) {
  if (!model || index < 0 || static_cast<size_t>(index) >= model->names.size()) return nullptr;
  return model->names[static_cast<size_t>(index)].c_str();
}

const char* swinv2_record(const swinv2_model* model) { return model ? model->record.c_str() : nullptr; }

int swinv2_classify_file(swinv2_model* model, const char* path, int k, swinv2_score* top) {
  return guarded([&] {
    need(model, "model");
    need_weights(*model);
    need(path, "path");
    const std::vector<unsigned char> bytes = read_file(path);
    std::vector<float> tensor = room(*model);
    try {
      prepare_bytes(*model, bytes.data() ? bytes.data() : reinterpret_cast<const unsigned char*>(""),
                    bytes.size(), tensor.data());
    } catch (const Error& error) {
      throw Error(error.status, std::string(path) + ": " + error.what());
    }
    return top_of(*model, tensor, k, top);
  });
}

int swinv2_classify_bytes(swinv2_model* model, const void* bytes, size_t size, int k, swinv2_score* top) {
  return guarded([&] {
    need(model, "model");
    need_weights(*model);
    std::vector<float> tensor = room(*model);
    prepare_bytes(*model, bytes, size, tensor.data());
    return top_of(*model, tensor, k, top);
  });
}

int swinv2_classify_pixels(swinv2_model* model, const uint8_t* rgb, int width, int height,
                           ptrdiff_t row_bytes, int k, swinv2_score* top) {
  return guarded([&] {
    need(model, "model");
    need_weights(*model);
    std::vector<float> tensor = room(*model);
    prepare(view_of(*model, rgb, width, height, row_bytes), model->preprocess, tensor.data());
    return top_of(*model, tensor, k, top);
  });
}

int swinv2_rank(const swinv2_model* model, const float* logits, int k, swinv2_score* top) {
  return guarded([&] {
    need(model, "model");
    need(logits, "logits");
    check_ranking(*model, k, top);
    if (!finite(logits, model->info.classes))
      refuse("logits are not finite; compute them in a wider precision");
    return rank(*model, logits, k, top);
  });
}

int swinv2_prepare_bytes(swinv2_model* model, const void* bytes, size_t size, float* tensor) {
  return guarded([&]() -> int {
    need(model, "model");
    need(tensor, "tensor");
    prepare_bytes(*model, bytes, size, tensor);
    return SWINV2_OK;
  });
}

int swinv2_prepare_pixels(swinv2_model* model, const uint8_t* rgb, int width, int height, ptrdiff_t row_bytes,
                          float* tensor) {
  return guarded([&]() -> int {
    need(model, "model");
    need(tensor, "tensor");
    prepare(view_of(*model, rgb, width, height, row_bytes), model->preprocess, tensor);
    return SWINV2_OK;
  });
}

int swinv2_run(swinv2_model* model, const float* images, int64_t batch, int height, int width,
               float* logits) {
  return guarded([&]() -> int {
    need(model, "model");
    need_weights(*model);
    need(images, "images");
    need(logits, "logits");
    check_size(batch, height, width);
    std::lock_guard<std::mutex> lock(model->mutex);
    model->network->run(images, batch, height, width, logits);
    return SWINV2_OK;
  });
}

int swinv2_trace(swinv2_model* model, const float* image, int height, int width, swinv2_watcher watch,
                 void* context) {
  return guarded([&]() -> int {
    need(model, "model");
    need_weights(*model);
    need(image, "image");
    if (!watch) refuse("watch is NULL");
    check_size(1, height, width);
    std::vector<float> logits(static_cast<size_t>(model->info.classes));
    const Watch call = [&](const char* name, const float* values, std::vector<int64_t> shape) {
      watch(context, name, values, shape.data(), static_cast<int>(shape.size()));
    };
    std::lock_guard<std::mutex> lock(model->mutex);
    model->network->run(image, 1, height, width, logits.data(), &call);
    return SWINV2_OK;
  });
}

const char* swinv2_last_error(void) { return last_error().c_str(); }

const char* swinv2_build(void) {
  static const std::string text = std::string(SWINV2_RELEASE) + (*decoders() ? " " : "") + decoders();
  return text.c_str();
}

}  // extern "C"
