// The model file: what is written comes back, and what is not whole, or not true, is refused in one sentence.
// tests/test_engine_artifact.py compares with the Python reader, over many more files.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "artifact.h"
#include "check.h"
#include "error.h"
#include "json.h"
#include "parameters.h"
#include "sha256.h"

using namespace swinv2;

namespace {

// ------------------------------------------------------------------ a small file, and changes to it

const std::string architecture =
    R"({"architecture": "speck", "image_size": [9, 7], "window": 2, "embed_dim": 4, "depths": [1, 2],)"
    R"( "heads": [1, 2], "pretrained_windows": [[0, 0], [3, 0]], "num_classes": 3, "in_chans": 1,)"
    R"( "patch_size": 2, "mlp_ratio": 1.5, "drop_path": 0.1, "extra_norm_period": 0})";
const std::string preprocess =
    R"({"size": [9, 7], "resize": "shorter", "resize_to": 10, "interpolation": "bilinear", "mean": [0.4],)"
    R"( "std": [0.2]})";

Config speck() {
  Config config;
  config.embed_dim = 4;
  config.depths = {1, 2};
  config.heads = {1, 2};
  config.num_classes = 3;
  config.in_chans = 1;
  config.patch_size = 2;
  config.mlp_ratio = 1.5;
  return config;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  CHECK(at != std::string::npos, "the test's own text lacks " + from);
  return text.replace(at, from.size(), to);
}

std::string in_quotes(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return out + '"';
}

// What a file is made of; the tests change one thing of it.
struct File {
  struct Row {
    std::string dtype = "F32", shape, bytes, offsets;  // offsets: as they follow from bytes, where empty
  };
  std::map<std::string, Row> rows;
  std::string architecture = ::architecture, preprocess = ::preprocess, version = "1", hash, more, record,
              tail;

  File() {
    uint32_t state = 1;
    for (const Parameter& parameter : parameters(speck())) {
      Row& row = rows[parameter.name];
      size_t values = 1;
      for (int64_t length : parameter.shape) {
        row.shape += (row.shape.empty() ? "" : ",") + std::to_string(length);
        values *= static_cast<size_t>(length);
      }
      for (size_t i = 0; i < values; i++) {
        state = state * 1664525u + 1013904223u;
        const float value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
        row.bytes.append(reinterpret_cast<const char*>(&value), 4);
      }
    }
  }

  std::string bytes() const {
    Sha256 sha;
    for (const auto& [name, row] : rows) {
      sha.add(name.data(), name.size());
      sha.add(row.bytes.data(), row.bytes.size());
    }
    std::string described = record;
    if (described.empty()) {
      described = "{\"format_version\": " + version + ", \"architecture\": " + architecture +
                  ", \"preprocess\": " + preprocess + more +
                  ", \"tensors_sha256\": " + (hash.empty() ? in_quotes(sha.hex()) : hash) + "}";
    }
    std::string header = "{\"__metadata__\": {\"swinv2\": " + in_quotes(described) + "}", body;
    for (const auto& [name, row] : rows) {
      const std::string start = std::to_string(body.size());
      body += row.bytes;
      header += ", " + in_quotes(name) + ": {\"dtype\": \"" + row.dtype + "\", \"shape\": [" + row.shape +
                "], \"data_offsets\": [" +
                (row.offsets.empty() ? start + ", " + std::to_string(body.size()) : row.offsets) + "]}";
    }
    return with_length(header + "}") + body + tail;
  }

  static std::string with_length(const std::string& header) {
    std::string out;
    for (size_t i = 0; i < 8; i++) out += static_cast<char>(uint64_t{header.size()} >> 8 * i & 0xFF);
    return out + header;
  }
};

Artifact parse(const std::string& bytes) {  // bytes must live as long
  return Artifact::parse(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), "a.safetensors");
}

// What a file is refused with; empty where it is not.
std::string refusal(const std::string& given) {
  // Exactly as long as it is, so that a sanitizer sees what is read behind it.
  const std::vector<unsigned char> bytes(given.begin(), given.end());
  try {
    Artifact::parse(bytes.data(), bytes.size(), "a.safetensors");
    return "";
  } catch (const Error& error) {
    const std::string sentence = error.what();
    CHECK(error.status == SWINV2_BAD_MODEL, sentence);
    CHECK(sentence.find("a.safetensors") == 0, "not about the file: " + sentence);
    CHECK(sentence.find('\n') == std::string::npos, "more than a line: " + sentence);
    return sentence;
  }
}

void refused(const std::string& bytes, const std::string& words) {
  const std::string sentence = refusal(bytes);
  CHECK(sentence.find(words) != std::string::npos, "expected \"" + words + "\", not \"" + sentence + "\"");
}

void test_what_is_written_comes_back() {
  File file;
  file.more =
      R"(, "classes": ["ein Apfel", "\u00c4pfel", "g\"\\"], "synsets": ["a", "b", "c"],)"
      R"( "provenance": {"loss": NaN, "nested": [1, null]}, "license": "MIT", "accuracy": {}, "later": 1)";
  const std::string bytes = file.bytes();
  const Artifact artifact = parse(bytes);
  const Config& config = artifact.config;
  CHECK(config.architecture == "speck" && config.image_size == (Pair{9, 7}) && config.window == 2);
  CHECK(config.embed_dim == 4 && config.depths == (std::vector<int>{1, 2}) &&
        config.heads == (std::vector<int>{1, 2}));
  CHECK(config.pretrained_windows == (std::vector<Pair>{{0, 0}, {3, 0}}) && config.num_classes == 3);
  CHECK(config.trained_windows() == (std::vector<Pair>{{2, 2}, {3, 2}}));
  CHECK(config.in_chans == 1 && config.patch_size == 2 && config.mlp_ratio == 1.5 &&
        config.extra_norm_period == 0);
  const Preprocess& seen = artifact.preprocess;
  CHECK(seen.size == (Pair{9, 7}) && !seen.squash && seen.resize_to == 10 && !seen.bicubic);
  CHECK(seen.mean == (std::vector<float>{0.4f}) && seen.std == (std::vector<float>{0.2f}));
  CHECK(artifact.classes == (std::vector<std::string>{"ein Apfel", "\xC3\x84pfel", "g\"\\"}));
  CHECK(Json::parse(artifact.record).find("license")->text == "MIT");
  artifact.check_hash();
  for (const Parameter& parameter : parameters(config)) {
    const std::vector<float> values = artifact.read(parameter.name, parameter.shape);
    const std::string& stored = file.rows[parameter.name].bytes;
    CHECK(values.size() * 4 == stored.size() && !std::memcmp(values.data(), stored.data(), stored.size()));
  }
  CHECK(artifact.has("norm.weight") && !artifact.has("norm"));
}

void test_what_a_record_leaves_out_is_as_in_python() {
  File file;
  file.architecture = "{}";
  file.preprocess = "{}";
  refused(file.bytes(), "of swinv2, the first is layers.0.blocks.1");
  file.architecture = replaced(architecture, "\"architecture\": \"speck\", ", "");
  file.preprocess = R"({"mean": [0], "std": [1]})";
  const std::string bytes = file.bytes();
  const Artifact artifact = parse(bytes);
  CHECK(artifact.config.architecture == "swinv2" && artifact.classes.empty());
  CHECK(artifact.preprocess.size == (Pair{256, 256}) && artifact.preprocess.resize_to == 292);
  CHECK(!artifact.preprocess.squash && artifact.preprocess.bicubic);
}

void test_every_type_is_read() {
  File file;
  File::Row& bias = file.rows["head.bias"];
  const double doubles[] = {0.1, -1e300, 5e-324};
  const uint16_t halves[] = {0x3C00, 0x8001, 0x7C00}, bf16s[] = {0x3F80, 0x8001, 0xFF80};
  bias.dtype = "F64";
  bias.bytes.assign(reinterpret_cast<const char*>(doubles), sizeof doubles);
  std::string bytes = file.bytes();
  const float infinite = std::numeric_limits<float>::infinity();
  CHECK(parse(bytes).read("head.bias", {3}) == (std::vector<float>{0.1f, -infinite, 0.0f}));
  bias.dtype = "F16";
  bias.bytes.assign(reinterpret_cast<const char*>(halves), sizeof halves);
  bytes = file.bytes();
  CHECK(parse(bytes).read("head.bias", {3}) == (std::vector<float>{1.0f, -0x1p-24f, infinite}));
  parse(bytes).check_hash();
  bias.dtype = "BF16";
  bias.bytes.assign(reinterpret_cast<const char*>(bf16s), sizeof bf16s);
  bytes = file.bytes();
  CHECK(parse(bytes).read("head.bias", {3}) == (std::vector<float>{1.0f, -0x1p-133f, -infinite}));
  bias.dtype = "I16";
  refused(file.bytes(), "head.bias is of a type that is not read here");
}

void test_asking_for_what_is_not_there() {
  const std::string bytes = File().bytes();
  const Artifact artifact = parse(bytes);
  for (const auto& [name, shape] :
       std::vector<Parameter>{{"head", {3}}, {"head.bias", {4}}, {"head.bias", {3, 1}}}) {
    bool is_refused = false;
    try {
      artifact.read(name, shape);
    } catch (const Error&) {
      is_refused = true;
    }
    CHECK(is_refused, name + " is there");
  }
}

void test_a_wrong_bit_is_found() {
  std::string bytes = File().bytes();
  for (size_t back : {size_t{1}, size_t{700}, size_t{5000}}) {
    bytes[bytes.size() - back] = static_cast<char>(bytes[bytes.size() - back] ^ 1);
    bool is_refused = false;
    try {
      parse(bytes).check_hash();
    } catch (const Error& error) {
      is_refused = std::string(error.what()).find("do not have the hash") != std::string::npos;
    }
    CHECK(is_refused, "a wrong bit is not found");
    bytes[bytes.size() - back] = static_cast<char>(bytes[bytes.size() - back] ^ 1);
  }
  parse(bytes).check_hash();
}

void test_truncation_at_any_length_is_found() {
  const std::string bytes = File().bytes();
  for (size_t size = 0; size < bytes.size(); size += size < 8000 ? 1 : 97)
    refused(bytes.substr(0, size), "was cut off");
  File file;
  file.tail = "more";
  refused(file.bytes(), "4 bytes follow the last tensor");
}

void test_any_wrong_byte_of_the_header_is_refused_or_harmless() {
  const std::string bytes = File().bytes();
  for (size_t at = 0; at < 5000; at++) {
    for (const char byte : {'"', '9', '\x80'}) {
      std::string changed = bytes;
      changed[at] = byte;
      refusal(changed);  // what is asked of the sentence is checked there
    }
  }
}

void test_headers_that_are_no_headers() {
  for (const char* header : {"[]", "null", "3", R"({"a": 3})", R"({"a": {"data_offsets": [0]}})",
                             R"({"a": {"dtype": "F32", "shape": [], "data_offsets": ["x", "y"]}})",
                             R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}})",
                             R"({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "b": 1}})",
                             R"({"__metadata__": 3})", R"({"__metadata__": {"swinv2": 3}})", "{", "{}x"}) {
    refused(File::with_length(header), "is not a safetensors file");
  }
  refused(File::with_length("{}"), "without a swinv2 record");
  refused(File::with_length(R"({"__metadata__": null})"), "without a swinv2 record");
  refused(File::with_length(R"({"__metadata__": {"format": "pt"}})"), "swinv2 convert a.safetensors");
  refused(File::with_length(R"({"__metadata__": {"swinv2": "[1]"}})"), "record that is not JSON");
  refused(File::with_length(R"({"__metadata__": {"swinv2": "{"}})"), "record that is not JSON");
  refused(std::string("PK\x03\x04") + std::string(100, '\0'), "not a safetensors file");
  refused("", "not a safetensors file");
}

void test_places_that_lie() {
  struct Row {
    const char *name, *offsets, *shape, *words;
  };
  const Row rows[] = {
      {"head.bias", "0, 13", "3", "bytes of"},
      {"head.bias", "4, 16", "3", "bytes of"},
      {"head.bias", "12, 0", "3", "bytes of"},
      {"head.bias", "0, 999999999999999999", "3", "was cut off"},
      {"head.bias", "0, 9999999999999999999", "3", "not a safetensors file"},
      {"head.bias", "0, 12", "4611686018427387904, 4, 3", "not a safetensors file"},
      {"head.bias", "0, 12", "999999999999999999, 999999999999999999, 3", "bytes of"},
      {"head.bias", "0, 12", "999999999999999999, 999999999999999999, 0", "bytes of"},
      {"head.bias", "0, 12", "", "bytes of"},
      {"head.bias", "0, 12", "3, 1", "head.bias has shape [3, 1], speck wants [3]"},
      {"head.weight", "0, 96", "3, 8", "bytes of"},
  };
  for (const Row& row : rows) {
    File file;
    file.rows[row.name].offsets = row.offsets;
    file.rows[row.name].shape = row.shape;
    refused(file.bytes(), row.words);
  }
}

void test_tensors_of_another_architecture() {
  File lacking, more, many;
  lacking.rows.erase("norm.weight");
  lacking.rows.erase("layers.0.blocks.0.attn.q_bias");
  refused(lacking.bytes(), "lacks 2 parameters of speck, the first is layers.0.blocks.0.attn.q_bias");
  more.rows["extra\n"] = {"F32", "1", "1234", ""};
  refused(more.bytes(), "holds 1 tensors that speck does not have, the first is extra");
  many.architecture = replaced(architecture, "[1, 2]", "[900, 900]");
  refused(many.bytes(), "lacks blocks: 62 tensors are too few for 1,800");
}

void test_records_that_cannot_be_true() {
  struct Row {
    const char *from, *to, *words;
  };
  const Row architectures[] = {
      {"\"window\": 2", "\"window\": 0", "window is 0; give a whole number from 1 to 128"},
      {"\"window\": 2", "\"window\": 2.0", "window is 2.0"},
      {"\"window\": 2", "\"window\": true", "window is true"},
      {"\"window\": 2", "\"window\": 129", "window is 129"},
      {"\"window\": 2", "\"window\": \"2\"", "window is '2'"},
      {"\"window\": 2", "\"window\": 4294967298", "window is 4294967298"},
      {"\"window\": 2", "\"window\": 2, \"colour\": 1", "holds colour, which this version does not know"},
      {"\"embed_dim\": 4", "\"embed_dim\": 16384", "the last stage has 32,768 channels"},
      {"\"speck\"", "7", "architecture is 7"},
      {"[9, 7]", "[9, 0]", "image_size is 0"},
      {"[9, 7]", "[9, 7, 3]", "image_size is a list; give one whole number or two"},
      {"[9, 7]", "99999", "image_size is 99999"},
      {"\"depths\": [1, 2]", "\"depths\": [1]", "name 1, 2 and 2 stages"},
      {"\"depths\": [1, 2]", "\"depths\": [-1, 2]", "depths is -1"},
      {"\"depths\": [1, 2]", "\"depths\": 3", "depths is 3; give a list"},
      {"\"depths\": [1, 2]", "\"depths\": [1000000000, 1]", "depths is 1000000000"},
      {"\"heads\": [1, 2]", "\"heads\": [1, 3]", "stage 2 has 8 channels, which 3 heads do not divide"},
      {"\"heads\": [1, 2]", "\"heads\": [0, 2]", "heads is 0"},
      {"[3, 0]", "[-3, 0]", "pretrained_windows is -3"},
      {"\"num_classes\": 3", "\"num_classes\": -1", "num_classes is -1"},
      {"\"num_classes\": 3", "\"num_classes\": 4", "head.weight has shape [3, 8], speck wants [4, 8]"},
      {"\"num_classes\": 3", "\"num_classes\": 0", "holds 2 tensors"},
      {"\"in_chans\": 1", "\"in_chans\": 3", "takes 3 channels, its preprocessing gives 1"},
      {"1.5", "-1.5", "mlp_ratio is -1.5"},
      {"1.5", "1e9", "mlp_ratio is 1000000000"},
      {"1.5", "NaN", "mlp_ratio is NaN"},
      {"0.1", "1.0", "drop_path is 1.0"},
      {"\"extra_norm_period\": 0", "\"extra_norm_period\": -6", "extra_norm_period is -6"},
  };
  for (const Row& row : architectures) {
    File file;
    file.architecture = replaced(architecture, row.from, row.to);
    refused(file.bytes(), row.words);
  }
  const Row preprocesses[] = {
      {"\"shorter\"", "\"longer\"", "resize is 'longer'; give squash or shorter"},
      {"\"bilinear\"", "\"nearest\"", "interpolation is 'nearest'; give bicubic or bilinear"},
      {"\"resize_to\": 10", "\"resize_to\": 0", "resize_to is 0"},
      {"[9, 7]", "[0, 7]", "size is 0"},
      {"[0.4]", "[]", "mean has 0 values, std 1"},
      {"[0.4]", "[1e99]", "mean is 1e99"},
      {"[0.4]", "[NaN]", "mean is NaN"},
      {"[0.2]", "[0]", "std above 0"},
      {"[0.2]", "[1e-99]", "std above 0"},
      {"[0.2]", "[\"0.2\"]", "std is '0.2'"},
      {"[0.2]", "[0.2, 0.2]", "mean has 1 values, std 2"},
      {"[0.2]", "[0.2], \"rotate\": 1", "holds rotate, which this version does not know"},
  };
  for (const Row& row : preprocesses) {
    File file;
    file.preprocess = replaced(preprocess, row.from, row.to);
    refused(file.bytes(), row.words);
  }
  const Row others[] = {
      {"", ", \"classes\": [\"a\", \"b\"]", "3 classes and 2 class names"},
      {"", ", \"classes\": [1, 2, 3]", "classes is 1; give text"},
      {"", ", \"classes\": \"abc\"", "classes is 'abc'; give a list"},
      {"", ", \"synsets\": [\"a\"]", "3 classes and 1 synsets"},
      {"", ", \"provenance\": 3", "provenance is 3"},
      {"", ", \"accuracy\": [1]", "accuracy is a list"},
  };
  for (const Row& row : others) {
    File file;
    file.more = row.to;
    refused(file.bytes(), row.words);
  }
  for (const char* version : {"0", "2", "99", "null", "\"1\"", "1.0", "true"}) {
    File file;
    file.version = version;
    refused(file.bytes(), "format version");
  }
  for (const char* hash : {"null", "\"\"", "\"0123\"", "7"}) {
    File file;
    file.hash = hash;
    refused(file.bytes(), "no hash");
  }
  File bare;
  bare.record = R"({"format_version": 1, "preprocess": {}})";
  refused(bare.bytes(), "'architecture' is missing");
  bare.record = R"({"format_version": 1, "architecture": 3})";
  refused(bare.bytes(), "architecture is 3; give an object");
}

void test_files() {
  const std::string path = "test_artifact \xC3\xA4\xE3\x82\x8A.safetensors";  // a name that is not ASCII
  auto refused_as = [](const std::string& name, swinv2_status status, const std::string& words) {
    try {
      Artifact::open(name);
      CHECK(false, name + " is read");
    } catch (const Error& error) {
      CHECK(error.status == status, error.what());
      CHECK(std::string(error.what()).find(words) != std::string::npos, error.what());
    }
  };
  refused_as("test_artifact_absent.safetensors", SWINV2_NO_FILE, "cannot be opened");
  refused_as(".", SWINV2_NO_FILE, "is a folder");
  refused_as("", SWINV2_NO_FILE, "");
#ifndef _WIN32
  refused_as("/dev/null", SWINV2_NO_FILE, "is not a file");
#endif
  const std::filesystem::path place = std::filesystem::u8path(path);
  auto write = [&](const std::string& bytes) { std::ofstream(place, std::ios::binary) << bytes; };
  write("");
  refused_as(path, SWINV2_BAD_MODEL, "not a safetensors file");
  write(File().bytes());
  {
    Artifact artifact = Artifact::open(path);
    const Artifact moved = std::move(artifact);  // the mapping goes with it
    moved.check_hash();
  }
  CHECK(std::filesystem::remove(place), "a file that was closed is still held");
}

}  // namespace

int main() {
  test_what_is_written_comes_back();
  test_what_a_record_leaves_out_is_as_in_python();
  test_every_type_is_read();
  test_asking_for_what_is_not_there();
  test_a_wrong_bit_is_found();
  test_truncation_at_any_length_is_found();
  test_any_wrong_byte_of_the_header_is_refused_or_harmless();
  test_headers_that_are_no_headers();
  test_places_that_lie();
  test_tensors_of_another_architecture();
  test_records_that_cannot_be_true();
  test_files();
  return finish();
}
