// What the reader makes of model files, for tests/test_engine_artifact.py. Every line of the input names a
// file and an image, "HEIGHT WIDTH PATH"; every line of the output is JSON: the sentence of a refusal, or all
// that was read.

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "parameters.h"
#include "sha256.h"

using namespace swinv2;

namespace {

std::string json(int value) { return std::to_string(value); }
std::string json(bool value) { return value ? "true" : "false"; }
std::string json(const Pair& pair) { return "[" + json(pair.rows) + ", " + json(pair.cols) + "]"; }

std::string json(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string json(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned char>(c));
    const bool is_plain = static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
    out += is_plain ? std::string(1, c) : escaped;
  }
  return out + "\"";
}

std::string json(const Stage& s) {
  return "[" + json(s.index) + ", " + json(s.dim) + ", " + json(s.depth) + ", " + json(s.heads) + ", " +
         json(s.grid) + ", " + json(s.window) + ", " + json(s.shift) + ", " + json(s.span) + ", " +
         json(s.padded()) + "]";
}

template <class T>
std::string json(const std::vector<T>& values) {
  std::string out;
  for (const T& value : values) out += (out.empty() ? "" : ", ") + json(value);
  return "[" + out + "]";
}

// All that was read, as floats: one hash over them in the order of the architecture.
std::string hash_of_floats(const Artifact& artifact) {
  Sha256 sha;
  for (const Parameter& parameter : parameters(artifact.config)) {
    const std::vector<float> values = artifact.read(parameter.name, parameter.shape);
    sha.add(values.data(), values.size() * sizeof(float));
  }
  return sha.hex();
}

std::string read(const std::string& path, int height, int width) {
  const Artifact artifact = Artifact::open(path);
  artifact.check_hash();
  const Config& c = artifact.config;
  const Preprocess& p = artifact.preprocess;
  return "{\"architecture\": " + json(c.architecture) + ", \"image_size\": " + json(c.image_size) +
         ", \"window\": " + json(c.window) + ", \"embed_dim\": " + json(c.embed_dim) +
         ", \"depths\": " + json(c.depths) + ", \"heads\": " + json(c.heads) +
         ", \"pretrained_windows\": " + json(c.pretrained_windows) +
         ", \"num_classes\": " + json(c.num_classes) + ", \"in_chans\": " + json(c.in_chans) +
         ", \"patch_size\": " + json(c.patch_size) + ", \"mlp_ratio\": " + json(c.mlp_ratio) +
         ", \"extra_norm_period\": " + json(c.extra_norm_period) +
         ", \"trained_windows\": " + json(c.trained_windows()) + ", \"size\": " + json(p.size) +
         ", \"squash\": " + json(p.squash) + ", \"resize_to\": " + json(p.resize_to) +
         ", \"bicubic\": " + json(p.bicubic) +
         ", \"mean\": " + json(std::vector<double>(p.mean.begin(), p.mean.end())) +
         ", \"std\": " + json(std::vector<double>(p.std.begin(), p.std.end())) +
         ", \"classes\": " + json(artifact.classes) + ", \"floats\": " + json(hash_of_floats(artifact)) +
         ", \"stages\": " + json(c.stages(height, width)) + "}";
}

}  // namespace

int main() {
  int height, width;
  std::string path;
  while (std::cin >> height >> width && std::getline(std::cin >> std::ws, path)) {
    try {
      std::cout << read(path, height, width) << std::endl;
    } catch (const Error& error) {
      std::cout << "{\"status\": " << error.status << ", \"refused\": " << json(std::string(error.what()))
                << "}" << std::endl;
    }
  }
}
