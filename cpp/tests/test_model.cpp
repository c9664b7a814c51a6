// Whole models through the C interface: every instruction set against the reference, any number of threads
// against one, many callers at once. `make sanitize` runs it under the sanitizers.
//
//     test_model [MODEL]    a model of random weights is written to the working folder where none is given

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernels/kernels.h"
#include "parameters.h"
#include "sha256.h"
#include "swinv2.h"

using namespace swinv2;

namespace {

// ------------------------------------------------------------------ a model file

// Windows that shift, one that covers the last map, channels that fill no panel.
Config architecture() {
  Config config;
  config.window = 4;
  config.embed_dim = 48;
  config.depths = {2, 2, 2};
  config.heads = {1, 2, 6};
  config.pretrained_windows = {{0, 0}, {0, 0}, {0, 0}};
  config.image_size = {48, 64};
  config.num_classes = 7;
  return config;
}

const std::string RECORD =
    R"({"format_version": 1, "architecture": {"architecture": "test", "image_size": [48, 64], "window": 4,)"
    R"( "embed_dim": 48, "depths": [2, 2, 2], "heads": [1, 2, 6], "num_classes": 7, "in_chans": 3,)"
    R"( "pretrained_windows": [[0, 0], [0, 0], [0, 0]], "patch_size": 4, "mlp_ratio": 4, "drop_path": 0.1,)"
    R"( "extra_norm_period": 0},)"
    R"( "preprocess": {"size": [48, 64], "resize": "squash", "resize_to": 64, "interpolation": "bicubic",)"
    R"( "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, "tensors_sha256": ")";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Weights that matter everywhere: values keep their size from layer to layer, and no two norms are alike.
std::string random_values(const Parameter& parameter, std::mt19937& generator) {
  size_t count = 1;
  for (int64_t length : parameter.shape) count *= static_cast<size_t>(length);
  const bool is_norm =
      parameter.name.find("norm") != std::string::npos && ends_with(parameter.name, "weight");
  const bool is_matrix = parameter.shape.size() > 1 && !ends_with(parameter.name, "logit_scale");
  const size_t inputs = is_matrix ? count / static_cast<size_t>(parameter.shape[0]) : 1;
  const float spread = is_matrix ? 1 / std::sqrt(static_cast<float>(inputs)) : 0.3f;
  const float middle = is_norm ? 0.7f : ends_with(parameter.name, "logit_scale") ? 2.0f : 0.0f;
  std::normal_distribution<float> distribution(middle, spread);
  std::string bytes;
  for (size_t i = 0; i < count; i++) {
    const float value = distribution(generator);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return bytes;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '"' ? std::string("\\\"") : std::string(1, c);
  return out;
}

void write_model(const std::string& path) {
  std::mt19937 generator(1);
  std::map<std::string, Parameter> sorted;  // the order of the hash
  for (const Parameter& parameter : parameters(architecture())) sorted[parameter.name] = parameter;
  Sha256 sha;
  std::string rows, body;
  for (const auto& [name, parameter] : sorted) {
    const std::string bytes = random_values(parameter, generator);
    sha.add(name.data(), name.size());
    sha.add(bytes.data(), bytes.size());
    std::string shape;
    for (int64_t length : parameter.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(length);
    rows += ", \"" + name + "\": {\"dtype\": \"F32\", \"shape\": [" + shape + "], \"data_offsets\": [" +
            std::to_string(body.size()) + ", " + std::to_string(body.size() + bytes.size()) + "]}";
    body += bytes;
  }
  const std::string record = escaped(RECORD + sha.hex() + "\"}");
  const std::string header = "{\"__metadata__\": {\"swinv2\": \"" + record + "\"}" + rows + "}";
  std::ofstream file(std::filesystem::u8path(path), std::ios::binary);
  for (size_t i = 0; i < 8; i++) file.put(static_cast<char>(uint64_t{header.size()} >> 8 * i & 0xff));
  file << header << body;
}

// ------------------------------------------------------------------ models and images

struct Model {
  swinv2_model* handle = nullptr;
  Model() = default;
  Model(const std::string& path, int threads, const char* precision, const char* instructions = nullptr) {
    swinv2_options options{};
    options.version = SWINV2_VERSION;
    options.threads = threads;
    options.precision = precision;
    options.instructions = instructions;
    const int status = swinv2_open(path.c_str(), &options, &handle);
    if (status != SWINV2_OK && status != SWINV2_UNSUPPORTED) CHECK(false, swinv2_last_error());
  }
  ~Model() { swinv2_close(handle); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  explicit operator bool() const { return handle; }  // false: this processor has no such products
};

struct Shape {
  int batch, height, width;
};
// As trained; a batch; padded maps; one with more windows than threads and one with a single window; a pixel.
const Shape SHAPES[] = {{1, 48, 64}, {3, 32, 32}, {2, 18, 39}, {1, 66, 17}, {5, 16, 16}, {1, 1, 1}};

std::string text(const Shape& s) {
  return std::to_string(s.batch) + " of " + std::to_string(s.height) + " x " + std::to_string(s.width);
}

std::vector<float> answers(const Model& model, const Shape& s) {
  const swinv2_info& info = *swinv2_describe(model.handle);
  std::mt19937 generator(static_cast<unsigned>(s.height * 1000 + s.width));
  std::normal_distribution<float> distribution;
  std::vector<float> images(static_cast<size_t>(s.batch * info.channels * s.height * s.width));
  for (float& value : images) value = distribution(generator);
  std::vector<float> logits(static_cast<size_t>(s.batch * info.classes), NAN);
  const int status = swinv2_run(model.handle, images.data(), s.batch, s.height, s.width, logits.data());
  CHECK(status == SWINV2_OK, swinv2_last_error());
  return logits;
}

// The largest difference as a share of the largest value.
double difference(const std::vector<float>& a, const std::vector<float>& right) {
  double largest = 1e-30, error = 0;
  for (size_t i = 0; i < right.size(); i++) {
    largest = std::fmax(largest, std::fabs(right[i]));
    const double one = std::fabs(static_cast<double>(a[i]) - right[i]);
    error = std::isnan(one) ? INFINITY : std::fmax(error, one);
  }
  return error / largest;
}

const char* const PRECISIONS[] = {"fp32", "bf16", "int8"};
// How far a random network may stray in each; rounding to 8 bits flips values, and they grow on the way.
const double ALLOWED[] = {1e-4, 0.06, 0.15};

// ------------------------------------------------------------------ the claims

void test_instructions_agree(const std::string& path) {
  const Kernels* const* tables;
  const int count = kernel_tables(&tables);
  std::vector<std::vector<float>> expected;
  const Model right(path, 1, "fp32", "reference");
  for (const Shape& shape : SHAPES) expected.push_back(answers(right, shape));
  for (int t = 0; t < count; t++)
    for (int p = 0; p < 3; p++) {
      const Model model(path, 2, PRECISIONS[p], tables[t]->name);
      for (size_t s = 0; model && s < expected.size(); s++) {
        const double error = difference(answers(model, SHAPES[s]), expected[s]);
        CHECK(error < ALLOWED[p], std::string(tables[t]->name) + " " + PRECISIONS[p] + ", " +
                                      text(SHAPES[s]) + ": differs by " + std::to_string(error));
      }
    }
}

void test_any_number_of_threads_gives_the_same(const std::string& path) {
  for (const char* precision : PRECISIONS) {
    const Model alone(path, 1, precision);
    if (!alone) continue;
    for (int threads : {2, 3, 5}) {
      const Model model(path, threads, precision);
      for (const Shape& shape : SHAPES) {
        const std::vector<float> expected = answers(alone, shape), again = answers(model, shape);
        CHECK(answers(model, shape) == again, std::string(precision) + " does not repeat itself");
        CHECK(again == expected, std::string(precision) + ", " + std::to_string(threads) + " threads, " +
                                     text(shape) + ": differs by " +
                                     std::to_string(difference(again, expected)));
      }
    }
  }
}

// Callers share two models; each has an order of shapes of its own, so that memory changes between them.
void test_callers_at_once(const std::string& path) {
  constexpr int CALLERS = 4, ROUNDS = 2;
  for (const char* precision : PRECISIONS) {
    const Model first(path, 2, precision), second(path, 3, precision);
    if (!first) continue;
    std::vector<std::vector<float>> expected;
    for (const Shape& shape : SHAPES) expected.push_back(answers(first, shape));
    std::vector<int> wrong(CALLERS);
    const auto call = [&](int caller) {
      for (int round = 0; round < ROUNDS; round++)
        for (size_t s = 0; s < expected.size(); s++) {
          const size_t mine = (s + static_cast<size_t>(caller)) % expected.size();
          wrong[static_cast<size_t>(caller)] +=
              answers(caller % 2 ? second : first, SHAPES[mine]) != expected[mine];
        }
    };
    std::vector<std::thread> callers;
    for (int caller = 0; caller < CALLERS; caller++) callers.emplace_back(call, caller);
    for (std::thread& caller : callers) caller.join();
    for (int count : wrong)
      CHECK(count == 0,
            std::string(precision) + ": " + std::to_string(count) + " answers are another caller's");
  }
}

void test_models_open_and_fail_at_once(const std::string& path) {
  std::vector<std::thread> callers;
  std::vector<std::string> sentences(3);
  for (size_t caller = 0; caller < sentences.size(); caller++)
    callers.emplace_back([&, caller] {
      const Model model(path, static_cast<int>(caller) + 1, "fp32");
      answers(model, SHAPES[caller]);
      const std::string absent = "absent" + std::to_string(caller);
      swinv2_model* none;
      CHECK(swinv2_open(absent.c_str(), nullptr, &none) == SWINV2_NO_FILE);
      sentences[caller] = swinv2_last_error();
    });
  for (std::thread& caller : callers) caller.join();
  for (size_t caller = 0; caller < sentences.size(); caller++)
    CHECK(sentences[caller].find("absent" + std::to_string(caller)) == 0,
          "the error of another: " + sentences[caller]);
}

void test_intermediates(const std::string& path) {
  const Model model(path, 2, "fp32");
  const swinv2_info& info = *swinv2_describe(model.handle);
  const Shape shape{1, info.height, info.width};
  std::vector<std::string> names;
  const swinv2_watcher watch = [](void* context, const char* name, const float* values, const int64_t* shape,
                                  int dims) {
    int64_t count = 1;
    for (int i = 0; i < dims; i++) count *= shape[i];
    for (int64_t i = 0; i < count; i++)
      if (!std::isfinite(values[i])) return CHECK(false, std::string(name) + " is not finite");
    static_cast<std::vector<std::string>*>(context)->push_back(name);
  };
  const std::vector<float> image(static_cast<size_t>(info.channels * shape.height * shape.width), 0.5f);
  CHECK(swinv2_trace(model.handle, image.data(), shape.height, shape.width, watch, &names) == SWINV2_OK);
  CHECK(names.size() > 3 && names.front() == "embed" && names.back() == "logits");
}

// The bytes of a file instead of its name: a browser, or a file inside another, has no name to give.
void test_the_bytes_of_a_file(const std::string& path) {
  std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const Model named(path, 1, "fp32");
  Model model;
  swinv2_options options{};
  options.threads = 1;
  CHECK(swinv2_open_bytes(bytes.data(), bytes.size(), &options, &model.handle) == SWINV2_OK,
        swinv2_last_error());
  const size_t size = bytes.size();
  std::fill(bytes.begin(), bytes.end(), 'x');  // they are no longer needed
  CHECK(answers(model, SHAPES[0]) == answers(named, SHAPES[0]), "its answers are others");

  swinv2_model* none = reinterpret_cast<swinv2_model*>(&options);
  CHECK(swinv2_open_bytes(bytes.data(), size, nullptr, &none) == SWINV2_BAD_MODEL && !none);
  CHECK(std::string(swinv2_last_error()).find("the model ") == 0, swinv2_last_error());
  CHECK(swinv2_open_bytes(bytes.data(), 0, nullptr, &none) == SWINV2_BAD_MODEL && !none);
  CHECK(swinv2_open_bytes(nullptr, size, nullptr, &none) == SWINV2_BAD_ARGUMENT && !none);
  CHECK(swinv2_open_bytes(bytes.data(), size, nullptr, nullptr) == SWINV2_BAD_ARGUMENT);
}

// What a program needs in which another runtime computes: the same pixels, names and order without the weights.
void test_a_record_without_weights(const std::string& path) {
  const Model whole(path, 1, "fp32");
  swinv2_model* model = nullptr;
  CHECK(swinv2_open_record(swinv2_record(whole.handle), &model) == SWINV2_OK, swinv2_last_error());
  const swinv2_info &info = *swinv2_describe(model), &right = *swinv2_describe(whole.handle);
  CHECK(info.classes == right.classes && info.channels == right.channels && info.stages == right.stages);
  CHECK(info.height == right.height && info.width == right.width && !info.threads && !info.weight_bytes);
  CHECK(std::string(info.architecture) == right.architecture && !*info.precision && !*info.instructions);

  std::vector<uint8_t> rgb(3 * 70 * 50);
  for (size_t i = 0; i < rgb.size(); i++) rgb[i] = static_cast<uint8_t>(i * 37);
  const size_t size = static_cast<size_t>(info.channels * info.height * info.width);
  std::vector<float> mine(size), theirs(size), logits(static_cast<size_t>(info.classes));
  CHECK(swinv2_prepare_pixels(model, rgb.data(), 70, 50, 0, mine.data()) == SWINV2_OK);
  CHECK(swinv2_prepare_pixels(whole.handle, rgb.data(), 70, 50, 0, theirs.data()) == SWINV2_OK);
  CHECK(mine == theirs, "the pixels are others");

  swinv2_score found[9], expected[9];
  CHECK(swinv2_run(whole.handle, mine.data(), 1, info.height, info.width, logits.data()) == SWINV2_OK);
  const int count = swinv2_rank(model, logits.data(), 9, found);
  CHECK(count == swinv2_classify_pixels(whole.handle, rgb.data(), 70, 50, 0, 9, expected) && count == 7);
  for (int i = 0; i < count; i++)
    CHECK(found[i].index == expected[i].index && found[i].score == expected[i].score &&
          !std::strcmp(found[i].name, expected[i].name));

  for (int status : {swinv2_run(model, mine.data(), 1, info.height, info.width, logits.data()),
                     swinv2_trace(
                         model, mine.data(), info.height, info.width,
                         [](void*, const char*, const float*, const int64_t*, int) {}, nullptr),
                     swinv2_classify_pixels(model, rgb.data(), 70, 50, 0, 1, found),
                     swinv2_classify_bytes(model, rgb.data(), rgb.size(), 1, found),
                     swinv2_classify_file(model, "absent.ppm", 1, found)})
    CHECK(status == SWINV2_BAD_ARGUMENT);
  CHECK(std::string(swinv2_last_error()).find("without weights") != std::string::npos, swinv2_last_error());
  logits[3] = NAN;
  CHECK(swinv2_rank(model, logits.data(), 1, found) == SWINV2_BAD_ARGUMENT);
  CHECK(std::string(swinv2_last_error()).find("logits are not finite") == 0, swinv2_last_error());
  swinv2_close(model);

  for (const char* wrong : {"", "[]", "{}", "{\"format_version\": 2}", "{\"format_version\": 1}"}) {
    model = reinterpret_cast<swinv2_model*>(&logits);
    CHECK(swinv2_open_record(wrong, &model) == SWINV2_BAD_MODEL && !model, wrong);
    CHECK(std::string(swinv2_last_error()).find("the model ") == 0, swinv2_last_error());
  }
  CHECK(swinv2_open_record(nullptr, &model) == SWINV2_BAD_ARGUMENT && !model);
}

// A file name with characters of three alphabets, for the model as for the picture.
void test_file_names() {
  const std::string model_path = "test_model_b\u00fccher_\u03bb.safetensors",
                    picture = "test_model_\u65e5\u672c.ppm";
  write_model(model_path);
  std::ofstream file(std::filesystem::u8path(picture), std::ios::binary);
  file << "P6\n3 2\n255\n" << std::string(18, 'x');
  file.close();
  {
    const Model model(model_path, 1, "fp32");
    swinv2_score top[9];
    const int found = swinv2_classify_file(model.handle, picture.c_str(), 9, top);
    CHECK(found == architecture().num_classes, swinv2_last_error());
    double total = 0;
    for (int i = 0; i < found; i++) total += top[i].score;
    CHECK(std::fabs(total - 1) < 1e-5, "scores add up to " + std::to_string(total));
    CHECK(swinv2_classify_file(model.handle, "absent.ppm", 1, top) == SWINV2_NO_FILE);
    CHECK(std::string(swinv2_last_error()).find("absent.ppm cannot be opened") == 0, swinv2_last_error());
  }
  std::filesystem::remove(std::filesystem::u8path(model_path));
  std::filesystem::remove(std::filesystem::u8path(picture));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "test_model.safetensors";
  if (argc == 1) write_model(path);
  test_instructions_agree(path);
  test_any_number_of_threads_gives_the_same(path);
  test_callers_at_once(path);
  test_models_open_and_fail_at_once(path);
  test_intermediates(path);
  test_the_bytes_of_a_file(path);
  test_a_record_without_weights(path);
  test_file_names();
  if (argc == 1) std::filesystem::remove(path);
  return finish();
}
