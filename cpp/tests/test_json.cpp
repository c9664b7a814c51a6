// What the reader of model files is made of: JSON, the hash, values of 16 bits.

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "check.h"
#include "json.h"
#include "sha256.h"
#include "values.h"

using namespace swinv2;

namespace {

std::string json_refusal(const std::string& text) {
  try {
    Json::parse(text);
    return "";
  } catch (const JsonError& error) {
    return error.what();
  }
}

void test_json_is_read() {
  const Json json = Json::parse(" {\"b\" : [1, -0.25e+1, true, null, \"\"], \"a\":{}} \n");
  CHECK(json.members.size() == 2 && json.members[0].key == "a");
  const Json& list = *json.find("b");
  CHECK(list.items.size() == 5 && list.items[0].whole == 1 && list.items[1].number == -2.5);
  CHECK(!list.items[1].whole && list.items[2].truth && list.items[3].is(Json::Kind::null));
  CHECK(!json.find("c") && !list.find("a"));
  CHECK(Json::parse(R"("\u0041\n\"\\\/\u00e9\u20ac\ud83d\ude00")").text ==
        "A\n\"\\/\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  CHECK(Json::parse("\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\x7F\"").text ==
        "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\x7F");
  CHECK(Json::parse("0.44899999999999995").number == 0.44899999999999995);
  CHECK(Json::parse("2.2250738585072011e-308").number == 2.2250738585072011e-308);
  CHECK(Json::parse("1e999").number == HUGE_VAL && Json::parse("-Infinity").number == -HUGE_VAL);
  CHECK(std::isnan(Json::parse("NaN").number));
  CHECK(Json::parse("-0").whole == 0 && Json::parse("123456789012345678").whole == 123456789012345678);
  CHECK(!Json::parse("1234567890123456789012").whole && !Json::parse("1.0").whole &&
        !Json::parse("1e3").whole);
}

void test_numbers_have_a_point_in_every_locale() {
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "German"}) {
    if (!std::setlocale(LC_ALL, name)) continue;  // not installed here
    CHECK(Json::parse("0.25").number == 0.25 && Json::parse("-1.5e-3").number == -1.5e-3, name);
    std::setlocale(LC_ALL, "C");
    return;
  }
  std::printf("no locale with a decimal comma is installed; not tested\n");
}

void test_what_is_no_json_is_refused() {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1,",
                           "[1,]",
                           "[1 2]",
                           "{1: 2}",
                           "{\"a\"}",
                           "{\"a\": 1,}",
                           "{\"a\": 1 \"b\": 2}",
                           "01",
                           "1.",
                           ".5",
                           "+1",
                           "-",
                           "1e",
                           "1e+",
                           "0x10",
                           "nul",
                           "True",
                           "nan",
                           "1 2",
                           "{} x",
                           "\"",
                           "\"a",
                           "\"\\",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\n\"",
                           "\"\x80\"",
                           "\"\xC0\x80\"",
                           "\"\xC3\"",
                           "\"\xED\xA0\x80\"",
                           "\"\xE0\x80\x80\"",
                           "\"\xF0\x80\x80\x80\"",
                           "\"\xF4\x90\x80\x80\"",
                           "\"\xF5\x80\x80\x80\"",
                           "\"\xFF\"",
                           "\xEF\xBB\xBF{}",
                           "{\"a\": 1, \"b\": 2, \"a\": 3}",
                           "{\"a\": 1, \"\\u0061\": 2}",
                           "'a'",
                           "[1]]"}) {
    CHECK(!json_refusal(text).empty(), std::string("is read: ") + text);
  }
  CHECK(!json_refusal(std::string("{}\0", 3)).empty() && !json_refusal(std::string("\"\0\"", 3)).empty());
  const std::string deep = std::string(100, '[') + "0" + std::string(100, ']');
  CHECK(json_refusal(deep).empty() && !json_refusal("[" + deep + "]").empty());
  CHECK(json_refusal(std::string(1 << 20, '[')).find("too deeply") != std::string::npos);
  std::string many = "[0";
  for (size_t i = 0; i < Json::max_values; i++) many += ",0";
  CHECK(json_refusal(many + "]").find("more values") != std::string::npos);
}

void test_sha256() {  // the examples of the standard, and lengths around a block
  auto of = [](const std::string& text) {
    Sha256 sha;
    sha.add(text.data(), text.size());
    return sha.hex();
  };
  CHECK(of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(of(std::string(1'000'000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (size_t size = 50; size < 140; size++) {
    const std::string text(size, 'x');
    Sha256 in_parts;
    for (size_t at = 0, part = 1; at < size; at += part, part = part % 7 + 1) {
      in_parts.add(text.data() + at, std::min(part, size - at));
    }
    CHECK(in_parts.hex() == of(text), "in parts, a hash of " + std::to_string(size) + " bytes differs");
  }
}

void test_every_half_is_exact() {
  for (uint32_t half = 0; half < 0x10000; half++) {
    const int exponent = static_cast<int>(half >> 10 & 31), fraction = static_cast<int>(half & 1023);
    const float value = float_of_f16(static_cast<uint16_t>(half));
    const float magnitude = exponent == 31 ? std::numeric_limits<float>::infinity()
                            : exponent     ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                                           : std::ldexp(static_cast<float>(fraction), -24);
    const bool is_right = exponent == 31 && fraction ? std::isnan(value) : std::fabs(value) == magnitude;
    CHECK(is_right && std::signbit(value) == (half >> 15 != 0), "f16 " + std::to_string(half));
    CHECK(float_of_bf16(static_cast<uint16_t>(half)) == float_of_bits(half << 16) ||
          std::isnan(float_of_bits(half << 16)));
  }
}

}  // namespace

int main() {
  test_json_is_read();
  test_numbers_have_a_point_in_every_locale();
  test_what_is_no_json_is_refused();
  test_sha256();
  test_every_half_is_exact();
  return finish();
}
