// JSON text to values: as RFC 8259 says, and bounded, because nobody vouches for the file that it comes from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace swinv2 {

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Stricter than Python's reader: text is UTF-8 without lone surrogates, a key is given once. Looser than the
// RFC in one point: NaN, Infinity and -Infinity are numbers, because Python writes them (in the provenance).
struct Json {
  enum class Kind { null, boolean, number, string, list, object };
  struct Member;

  static constexpr int max_depth = 100;            // lists and objects in each other; bounds the stack
  static constexpr size_t max_values = 1'000'000;  // in all; bounds the memory to some 150 MB beside the text

  Kind kind = Kind::null;
  bool truth = false;            // of a boolean
  double number = 0;             // of a number; infinite where it is too large
  std::optional<int64_t> whole;  // of a number without point and exponent that fits
  std::string text;              // of a string, in UTF-8; of a number, as it is written
  std::vector<Json> items;       // of a list
  std::vector<Member> members;   // of an object, sorted by key

  static Json parse(const char* text, size_t size);  // throws JsonError
  static Json parse(const std::string& text) { return parse(text.data(), text.size()); }

  bool is(Kind other) const { return kind == other; }
  const Json* find(const std::string& key) const;  // null where this is no object, or has no such key
};

struct Json::Member {
  std::string key;
  Json value;
};

}  // namespace swinv2
