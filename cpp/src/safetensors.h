// The safetensors container: 8 bytes of length, a JSON header of that length, the tensors without gaps.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "artifact.h"

namespace swinv2 {

struct Container {
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;
};

// Checks all that the format promises: every tensor inside the bytes, as long as its shape says, none over
// another, nothing between or after them. Throws Error BAD_MODEL; name is the file's, for the sentence.
Container read_safetensors(const unsigned char* bytes, size_t size, const std::string& name);

}  // namespace swinv2
