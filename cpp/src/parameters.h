// What a model holds: official parameter names and shapes. The twin of src/swinv2/counts.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"

namespace swinv2 {

constexpr int position_hidden = 512;  // width of the continuous position bias MLP (paper, section 3.3)

struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
};

// In the order of the official state dict.
std::vector<Parameter> parameters(const Config& config);

}  // namespace swinv2
