// Model files from bytes that nobody made: whatever they are, parse() gives a model whose every promise
// holds, or an Error. For libFuzzer; seeds.py writes the corpus to begin with:
//
//     python fuzz/seeds.py corpus
//     clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -Isrc fuzz/fuzz_artifact.cpp
//       src/{artifact,config,json,mapping,parameters,record,safetensors,sentence,sha256}.cpp -o fuzz_artifact
//     ./fuzz_artifact -dict=fuzz/artifact.dict -max_len=70000 corpus
//
// A length before the header and a JSON text inside a JSON string stop most changes early, so an input that
// begins with H, 3 bytes and { is a header alone (the bytes say how many zeros follow it), and one that
// begins with R and { is a record alone.

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "json.h"
#include "parameters.h"

using namespace swinv2;

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += "0123456789abcdef"[c >> 4 & 15];
      out += "0123456789abcdef"[c & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string file_of(const std::string& header, size_t body) {
  std::string out;
  for (size_t i = 0; i < 8; i++) out += static_cast<char>(header.size() >> 8 * i & 0xFF);
  return out + header + std::string(body, '\0');
}

Config seed_config() {  // of seeds.py
  Config config;
  config.embed_dim = 16;
  config.depths = {1};
  config.heads = {2};
  config.num_classes = 3;
  config.in_chans = 1;
  config.patch_size = 1;
  config.mlp_ratio = 1;
  return config;
}

std::string file_with_record(const std::string& record) {
  std::string header = "{\"__metadata__\":{\"swinv2\":" + quoted(record) + "}";
  size_t place = 0;
  for (const Parameter& parameter : parameters(seed_config())) {
    std::string shape;
    size_t bytes = 2;
    for (int64_t length : parameter.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(length);
      bytes *= static_cast<size_t>(length);
    }
    header += "," + quoted(parameter.name) + ":{\"dtype\":\"F16\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(place) + "," + std::to_string(place + bytes) + "]}";
    place += bytes;
  }
  return file_of(header + "}", place);
}

// What the rest of the library relies on (config.h, record.h).
void check_stages(const Config& config, int height, int width) {
  try {
    for (const Stage& stage : config.stages(height, width)) {
      const Pair padded = stage.padded();
      require(stage.dim > 0 && stage.heads > 0 && stage.dim % stage.heads == 0 && stage.depth >= 0);
      require(stage.window.rows > 0 && stage.window.cols > 0 && stage.span.rows > 0 && stage.span.cols > 0);
      require(stage.window.rows <= stage.grid.rows && stage.window.cols <= stage.grid.cols);
      require(stage.shift.rows < stage.window.rows && stage.shift.cols < stage.window.cols);
      require(padded.rows >= stage.grid.rows && padded.cols >= stage.grid.cols);
      require(int64_t{padded.rows} * padded.cols <= INT_MAX);
      const int64_t tokens = int64_t{stage.window.rows} * stage.window.cols;
      require(tokens * tokens <= INT_MAX && config.hidden(stage.index) > 0);
    }
  } catch (const Error& error) {
    require(error.status == SWINV2_BAD_ARGUMENT);
  }
}

void use(const Artifact& artifact) {
  const Config& config = artifact.config;
  const Preprocess& preprocess = artifact.preprocess;
  check_stages(config, config.image_size.rows, config.image_size.cols);
  check_stages(config, preprocess.size.rows, preprocess.size.cols);
  check_stages(config, 1, 1);
  check_stages(config, 1000, 37);
  check_stages(config, INT_MAX, INT_MAX);
  require(preprocess.mean.size() == static_cast<size_t>(config.in_chans));
  require(preprocess.std.size() == preprocess.mean.size());
  require(artifact.classes.empty() || artifact.classes.size() == static_cast<size_t>(config.num_classes));
  for (const Parameter& parameter : parameters(config)) artifact.read(parameter.name, parameter.shape);
  try {
    artifact.check_hash();
  } catch (const Error& error) {
    require(error.status == SWINV2_BAD_MODEL);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string built;
  const std::string rest(data + (size > 0), data + size);
  if (size > 4 && data[0] == 'H' && data[4] == '{') {
    built = file_of(rest.substr(3), data[1] | size_t{data[2]} << 8 | size_t{data[3]} << 16);
  } else if (size > 1 && data[0] == 'R' && data[1] == '{') {
    built = file_with_record(rest);
  }
  // As long as it is and no longer: what is read behind it is seen.
  std::vector<uint8_t> bytes(built.begin(), built.end());
  if (built.empty()) bytes.assign(data, data + size);
  try {
    use(Artifact::parse(bytes.data(), bytes.size(), "model.safetensors"));
  } catch (const Error& error) {
    require(error.status == SWINV2_BAD_MODEL);
    require(std::string(error.what()).find('\n') == std::string::npos);
  }
  return 0;
}
