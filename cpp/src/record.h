// The record of a model file: JSON -> architecture, preprocessing, class names, each field checked.
// The twin of Record.from_dict() in src/swinv2/artifact.py and of what it calls.
#pragma once

#include <string>
#include <vector>

#include "config.h"
#include "json.h"

namespace swinv2 {

// What a record may ask for. Python has no such limits and fails where memory ends. Ours are far beyond every
// model that was published or described, and let the rest of the library compute with int:
//   N = window^2 tokens of a window and its N^2 scores: at most 2^28
//   3 * dim, hidden, in_chans * patch_size^2, and the values of any one weight: below 2^31
//   tokens of a padded map (Config::stages), values of the tensor that preprocessing makes: below 2^31
// Not bounded, so to be computed with 64 bits: tokens * dim and tokens * hidden of a map, heads * N^2, the
// values of tensors together.
struct Limits {
  static constexpr int stages = 16, depth = 1000, dim = 16'384, hidden = 65'536, window = 128;
  static constexpr int channels = 1024, patch = 256, classes = 10'000'000, side = 16'384, resize = 65'536;
};

struct Record {
  Config config;
  Preprocess preprocess;
  std::vector<std::string> classes;  // names; empty where nobody named them
  std::string tensors_sha256;        // 64 hexadecimal digits, or empty where the record has none
};

// where names the file. Throws Error BAD_MODEL: no JSON, another version, a field that is missing, unknown, wrong.
Record read_record(const std::string& json, const std::string& where);

}  // namespace swinv2
