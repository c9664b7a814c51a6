// What goes wrong, as it travels inside the library; api.cpp turns it into a status and a sentence.
#pragma once

#include <stdexcept>
#include <string>

#include "swinv2.h"

namespace swinv2 {

struct Error : std::runtime_error {
  Error(swinv2_status status, const std::string& sentence) : std::runtime_error(sentence), status(status) {}
  swinv2_status status;
};

}  // namespace swinv2
