// Short and harmless forms of what a file says.

#include "sentence.h"

namespace swinv2 {

std::string shown(const std::string& text) {
  constexpr size_t most = 80;
  size_t end = text.size();
  if (end > most) {
    end = most;
    while (end > 0 && (text[end] & 0xC0) == 0x80) end--;  // not inside a character
  }
  std::string out = text.substr(0, end);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return end < text.size() ? out + "..." : out;
}

std::string shown(const Json& value) {
  switch (value.kind) {
    case Json::Kind::null: return "null";
    case Json::Kind::boolean: return value.truth ? "true" : "false";
    case Json::Kind::number: return shown(value.text);
    case Json::Kind::string: return "'" + shown(value.text) + "'";
    case Json::Kind::list: return "a list";
    case Json::Kind::object: return "an object";
  }
  return "?";
}

std::string shown(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size() && i < 8; i++) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() > 8 ? ", ...]" : "]");
}

std::string with_commas(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

}  // namespace swinv2
