// A recursive-descent parser: one function per kind of value, each of which reads exactly that value.

#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace swinv2 {
namespace {

// The number that a decimal text says, rounded correctly, whatever decimal point the program's locale has.
// (std::from_chars does this, and the standard library of the Android NDK does not have it for doubles.)
double to_double(std::string text) {
  char sample[16];
  std::snprintf(sample, sizeof sample, "%.1f", 0.5);  // "0.5", or "0,5" where the host set a German locale
  const std::string point(sample + 1, std::strlen(sample) - 2);
  if (const size_t at = text.find('.'); at != std::string::npos) text.replace(at, 1, point);
  return std::strtod(text.c_str(), nullptr);
}

void append_utf8(std::string& out, uint32_t point) {
  auto byte = [&](uint32_t value) { out += static_cast<char>(static_cast<unsigned char>(value)); };
  if (point < 0x80) return byte(point);
  if (point < 0x800) {
    byte(0xC0 | point >> 6);
  } else {
    if (point < 0x10000) {
      byte(0xE0 | point >> 12);
    } else {
      byte(0xF0 | point >> 18);
      byte(0x80 | (point >> 12 & 0x3F));
    }
    byte(0x80 | (point >> 6 & 0x3F));
  }
  byte(0x80 | (point & 0x3F));
}

class Parser {
 public:
  Parser(const char* text, size_t size) : begin_(text), at_(text), end_(text + size) {}

  Json document() {
    Json value = read_value(0);
    skip_space();
    if (at_ != end_) fail("text after the end of the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* reason) const {
    throw JsonError("byte " + std::to_string(at_ - begin_) + ": " + reason);
  }

  size_t left() const { return static_cast<size_t>(end_ - at_); }

  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) at_++;
  }

  bool take(char c) {  // the next byte, where it is c
    if (at_ == end_ || *at_ != c) return false;
    at_++;
    return true;
  }

  bool take_word(const char* word) {
    const size_t length = std::strlen(word);
    if (left() < length || std::memcmp(at_, word, length) != 0) return false;
    at_ += length;
    return true;
  }

  Json read_value(int depth) {
    if (++values_ > Json::max_values) fail("more values than are read");
    if (depth > Json::max_depth) fail("lists and objects are nested too deeply");
    skip_space();
    if (at_ == end_) fail("the text ends where a value should be");
    Json value;
    if (*at_ == '{') {
      read_object(value, depth);
    } else if (*at_ == '[') {
      read_list(value, depth);
    } else if (*at_ == '"') {
      value.kind = Json::Kind::string;
      value.text = read_string();
    } else if (take_word("true")) {
      value.kind = Json::Kind::boolean;
      value.truth = true;
    } else if (take_word("false")) {
      value.kind = Json::Kind::boolean;
    } else if (!take_word("null")) {
      read_number(value);
    }
    return value;
  }

  void read_list(Json& list, int depth) {
    list.kind = Json::Kind::list;
    at_++;
    skip_space();
    if (take(']')) return;
    do {
      list.items.push_back(read_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail("a list goes on with , or ends with ]");
  }

  void read_object(Json& object, int depth) {
    object.kind = Json::Kind::object;
    at_++;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      if (at_ == end_ || *at_ != '"') fail("a key should be here, in quotation marks");
      std::string key = read_string();
      skip_space();
      if (!take(':')) fail("a : should follow the key");
      object.members.push_back({std::move(key), read_value(depth + 1)});
      skip_space();
    } while (take(','));
    if (!take('}')) fail("an object goes on with , or ends with }");
    auto& members = object.members;
    std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    auto same = [](const auto& a, const auto& b) { return a.key == b.key; };
    const bool twice = std::adjacent_find(members.begin(), members.end(), same) != members.end();
    if (twice) fail("a key is there twice");
  }

  void read_number(Json& value) {
    value.kind = Json::Kind::number;
    const char* start = at_;
    if (take_word("NaN")) {
      value.number = std::nan("");
    } else if (take_word("Infinity") || take_word("-Infinity")) {
      value.number = *start == '-' ? -HUGE_VAL : HUGE_VAL;
    } else {
      bool is_whole = true;
      take('-');
      if (!take('0') && take_digits() == 0) fail("a value should be here");
      if (take('.')) {
        is_whole = false;
        if (take_digits() == 0) fail("a digit should follow the point");
      }
      if (take('e') || take('E')) {
        is_whole = false;
        if (!take('+')) take('-');
        if (take_digits() == 0) fail("a digit should follow the e");
      }
      const std::string digits(start, at_);
      value.number = to_double(digits);
      // 18 digits always fit; what is longer is no number of anything here.
      if (is_whole && digits.size() <= 18) value.whole = std::strtoll(digits.c_str(), nullptr, 10);
    }
    value.text.assign(start, at_);
  }

  size_t take_digits() {
    const char* start = at_;
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') at_++;
    return static_cast<size_t>(at_ - start);
  }

  static bool is_plain(char c) { return static_cast<signed char>(c) >= 0x20 && c != '"' && c != '\\'; }

  std::string read_string() {
    std::string out;
    at_++;
    while (true) {
      const char* plain = at_;
      while (at_ != end_ && is_plain(*at_)) at_++;
      out.append(plain, at_);
      if (at_ == end_) fail("the text ends inside a string");
      if (take('"')) return out;
      if (take('\\')) {
        append_utf8(out, read_escape());
      } else {
        take_beyond_ascii(out);
      }
    }
  }

  // One character of two to four bytes (RFC 3629). Refused: overlong forms, surrogates, beyond U+10FFFF.
  void take_beyond_ascii(std::string& out) {
    auto byte = [&](size_t i) { return i < left() ? static_cast<unsigned char>(at_[i]) : 0; };
    const int first = byte(0), second = byte(1);
    if (first < 0x20) fail("a control character in a string; it should be escaped");
    const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    bool is_valid = first >= 0xC2 && first <= 0xF4;
    for (size_t i = 1; i < length; i++) is_valid = is_valid && byte(i) >> 6 == 2;
    if (!is_valid || (first == 0xE0 && second < 0xA0) || (first == 0xED && second >= 0xA0) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second >= 0x90)) {
      fail("a string that is not UTF-8");
    }
    out.append(at_, length);
    at_ += length;
  }

  uint32_t read_escape() {  // what follows a backslash: a code point
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (at_ == end_) fail("the text ends inside a string");
    if (take('u')) {
      const uint32_t first = read_hex();
      if (first < 0xD800 || first > 0xDFFF) return first;
      if (first > 0xDBFF || !take_word("\\u")) fail("half a surrogate pair");
      const uint32_t second = read_hex();
      if (second < 0xDC00 || second > 0xDFFF) fail("half a surrogate pair");
      return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }
    const char* name = *at_ == 0 ? nullptr : std::strchr(names, *at_);
    if (!name) fail("an unknown escape in a string");
    at_++;
    return static_cast<unsigned char>(meant[name - names]);
  }

  uint32_t read_hex() {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
      static const char digits[] = "0123456789abcdef0123456789ABCDEF";
      const char* digit = at_ == end_ || *at_ == 0 ? nullptr : std::strchr(digits, *at_);
      if (!digit) fail("\\u should be followed by four hexadecimal digits");
      value = value << 4 | static_cast<uint32_t>((digit - digits) % 16);
      at_++;
    }
    return value;
  }

  const char *begin_, *at_, *end_;
  size_t values_ = 0;
};

}  // namespace

Json Json::parse(const char* text, size_t size) { return Parser(text, size).document(); }

const Json* Json::find(const std::string& key) const {
  auto before = [](const Member& member, const std::string& wanted) { return member.key < wanted; };
  const auto found = std::lower_bound(members.begin(), members.end(), key, before);
  return found != members.end() && found->key == key ? &found->value : nullptr;
}

}  // namespace swinv2
