// Parts of the sentences about model files. What a file says is shown short and without control characters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace swinv2 {

std::string shown(const std::string& text);            // at most some 80 bytes of it
std::string shown(const Json& value);                  // 3, 'nearest', null, a list
std::string shown(const std::vector<int64_t>& shape);  // [96, 3, 4, 4]
std::string with_commas(uint64_t number);              // 1,234,567

}  // namespace swinv2
