// Pictures without Pillow: known answers that Pillow 13 gave, orientation, limits, and files that lie or
// break off. tests/test_engine_images.py compares with Pillow itself, over many more.

#include <climits>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "error.h"
#include "image/decode.h"
#include "image/exif.h"
#include "image/image.h"
#include "pictures.h"

using namespace swinv2;

namespace {

Image noise(int width, int height, int channels) {
  Image image = allocate(width, height, channels);
  uint32_t state = 12345;
  for (uint8_t& value : image.pixels) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<uint8_t>(state >> 24);
  }
  return image;
}

View view_of(const Image& image) {
  return {image.pixels.data(), image.width, image.height, image.channels,
          static_cast<ptrdiff_t>(image.width) * image.channels};
}

uint64_t hash(const void* bytes, size_t size) {  // FNV-1a
  uint64_t state = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i)
    state = (state ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001b3u;
  return state;
}

uint64_t hash(const Image& image) { return hash(image.pixels.data(), image.pixels.size()); }

std::string bytes_of(const std::string& hexadecimal) {
  std::string bytes;
  for (size_t i = 0; i < hexadecimal.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hexadecimal.substr(i, 2), nullptr, 16));
  return bytes;
}

Image decode(const std::string& bytes, int channels = 3) {
  return swinv2::decode(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), channels);
}

// What a file is refused with; empty where it is not.
std::string refusal(const std::string& bytes) {
  try {
    decode(bytes);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void check_refused(const std::string& bytes, const std::string& words) {
  const std::string sentence = refusal(bytes);
  CHECK(sentence.find(words) != std::string::npos, "expected \"" + words + "\", not \"" + sentence + "\"");
}

void test_resize() {
  struct Case {
    int width, height, channels, to_width, to_height;
    bool bicubic;
    uint64_t expected;
  };
  const Case cases[] = {
      {17, 9, 3, 40, 31, true, 0x8b42f2cb13aa10e7},  {40, 31, 3, 17, 9, true, 0x8cd236c194210d90},
      {40, 31, 1, 17, 9, false, 0x857d5c521501e6fc}, {20, 90, 3, 15, 11, true, 0xa2c1fe628b96cc1a},
      {20, 90, 1, 33, 7, false, 0x3ce77959253e7de7}, {90, 20, 3, 11, 15, false, 0xeed721ccccbcc92b},
      {1, 1, 3, 5, 4, true, 0x02c100e581574c25},     {64, 3, 1, 2, 3, true, 0x7a146f7707f2d554},
  };
  for (const Case& c : cases) {
    const Image image = noise(c.width, c.height, c.channels);
    CHECK(hash(resize(view_of(image), c.to_width, c.to_height, c.bicubic)) == c.expected,
          "resize differs at " + std::to_string(c.width) + " x " + std::to_string(c.height));
  }
  const uint8_t grey[] = {0, 255, 0, 255};
  const Image wide = resize({grey, 4, 1, 1, 4}, 7, 1, true);
  CHECK(wide.pixels == (std::vector<uint8_t>{0, 87, 251, 128, 4, 168, 255}), "bicubic enlargement differs");
  const uint8_t values[] = {0, 10, 200, 255, 30, 90, 7};
  const Image narrow = resize({values, 7, 1, 1, 7}, 3, 1, false);
  CHECK(narrow.pixels == (std::vector<uint8_t>{47, 165, 48}), "bilinear reduction differs");
}

void test_rows_may_have_gaps_and_run_upwards() {
  const Image image = noise(9, 7, 3);
  std::vector<uint8_t> rows(7 * 40, 77);
  for (int y = 0; y < 7; ++y) std::memcpy(&rows[(6 - y) * 40], &image.pixels[y * 27], 27);
  const Image upwards = resize({&rows[6 * 40], 9, 7, 3, -40}, 5, 11, true);
  CHECK(upwards.pixels == resize(view_of(image), 5, 11, true).pixels, "rows from the bottom up differ");
}

void test_prepare() {
  struct Case {
    int width, height, channels;
    Pair size;
    bool squash;
    int resize_to;
    bool bicubic;
    uint64_t expected;
  };
  const Case cases[] = {
      {60, 45, 3, {32, 40}, false, 44, true, 0x6c0e7f45f2a5c711},
      {45, 60, 1, {32, 40}, false, 33, false, 0xd1f750b14333c66a},
      {30, 50, 3, {48, 64}, false, 40, true, 0xca53e152a0b29901},  // smaller than the crop: black around
      {50, 20, 3, {17, 23}, true, 292, true, 0x69d19b09be4e2838},
      {7, 400, 3, {20, 20}, false, 23, true, 0xcf36c2aed41539d0},
  };
  const float mean[] = {0.485f, 0.456f, 0.406f}, std[] = {0.229f, 0.224f, 0.225f};
  for (const Case& c : cases) {
    const Image image = noise(c.width, c.height, c.channels);
    Preprocess recipe;
    recipe.size = c.size;
    recipe.squash = c.squash;
    recipe.resize_to = c.resize_to;
    recipe.bicubic = c.bicubic;
    recipe.mean.assign(mean, mean + c.channels);
    recipe.std.assign(std, std + c.channels);
    std::vector<float> tensor(static_cast<size_t>(c.channels * c.size.rows * c.size.cols));
    prepare(view_of(image), recipe, tensor.data());
    CHECK(hash(tensor.data(), tensor.size() * sizeof(float)) == c.expected,
          "the tensor differs at " + std::to_string(c.width) + " x " + std::to_string(c.height));
  }
}

void test_strips_cost_what_the_crop_sees() {
  std::vector<uint8_t> strip(10000000, 200);
  Preprocess recipe;
  recipe.size = {256, 256};
  recipe.resize_to = 292;
  recipe.mean = recipe.std = {0.5f};
  std::vector<float> tensor(256 * 256);
  prepare({strip.data(), 10000000, 1, 1, 10000000}, recipe, tensor.data());  // whole: 850 GB
  int other = 0;
  for (float value : tensor) other += value != (200.0f / 255.0f - 0.5f) / 0.5f;
  CHECK(other == 0, std::to_string(other) + " values of a plain strip are not plain");
}

void test_known_pictures() {
  for (const Picture& picture : pictures) {
    const std::string bytes = bytes_of(picture.hexadecimal);
    const Image colour = decode(bytes), grey = decode(bytes, 1);
    CHECK(colour.width == picture.width && colour.height == picture.height,
          std::string(picture.name) + " has another size");
    CHECK(hash(colour) == picture.colour, std::string(picture.name) + " has other colours");
    CHECK(hash(grey) == picture.grey, std::string(picture.name) + " has other greys");
  }
}

void test_every_cut_and_every_flip_is_refused_or_shown() {
  for (const Picture& picture : pictures) {
    const std::string bytes = bytes_of(picture.hexadecimal);
    for (size_t length = 0; length < bytes.size(); ++length) refusal(bytes.substr(0, length));
    check_refused(bytes.substr(0, bytes.size() * 2 / 3), "cut off or damaged");
    for (size_t i = 0; i < bytes.size(); ++i)
      for (int change : {0x01, 0x80, 0xff}) {
        std::string flipped = bytes;
        flipped[i] = static_cast<char>(flipped[i] ^ change);
        refusal(flipped);
      }
  }
}

void test_refusals() {
  check_refused("", "the image is empty (0 bytes)");
  check_refused("Not a picture, only called one.", "is not an image of a kind that is read");
  check_refused("<!DOCTYPE html><html>", "it looks like a web page");
  check_refused("GIF89a...", "GIF, and this build reads");
  check_refused(std::string("II*\0....", 8), "TIFF, and this build reads");
  check_refused("RIFF", "its header cannot be read");
  check_refused("P6 2 2 255 ", "its data ends too early");
  check_refused("P5 2 x", "its header cannot be read");
  check_refused("P5 99999999999 2 255\n", "its header cannot be read");
  check_refused("P5 60000 60000 255\n", "more than 178,956,970 pixels");
  check_refused("P5 0 4 255\n", "0 x 4 pixels; an image has at least one");
  check_refused("P5 1 1 65535\n..", "16 bits");
#if defined(SWINV2_PNG)
  // 13,000 x 13,000 grey in no data at all: refused before there is memory for it
  check_refused(bytes_of("89504e470d0a1a0a0000000d49484452000032c8000032c80800000000c7"
                         "c9b7e40000000949444154"),
                "its data ends too early");
#endif
  CHECK(refusal("P5 1 1 255\n!").empty(), "one pixel is a picture");
}

void test_sizes_do_not_overflow() {
  for (int64_t side : {int64_t{0}, int64_t{-1}, int64_t{INT_MAX}, INT64_MAX}) {
    std::string sentence;
    try {
      refuse_size(side, INT64_MAX);
    } catch (const Error& error) {
      sentence = error.what();
    }
    CHECK(!sentence.empty(), "a side of " + std::to_string(side) + " is not refused");
  }
}

// A JPEG header with one APP1 segment.
Bytes jpeg_with(const std::string& segment, std::string* file) {
  const size_t length = segment.size() + 2;
  *file = std::string("\xff\xd8\xff\xe1", 4) + static_cast<char>(length >> 8) + static_cast<char>(length) +
          segment + "\xff\xda";
  return {reinterpret_cast<const unsigned char*>(file->data()), file->size()};
}

std::string exif_with(int value, bool little, char type) {
  const std::string tag = little ? "\x12\x01" : "\x01\x12";
  const auto two = [&](int number) {
    const std::string big{static_cast<char>(number >> 8), static_cast<char>(number)};
    return little ? std::string{big[1], big[0]} : big;
  };
  const auto four = [&](int number) { return little ? two(number) + two(0) : two(0) + two(number); };
  const std::string data = type == 3 ? two(value) + two(0) : four(value);
  return std::string("Exif\0\0", 6) + (little ? "II" : "MM") + two(42) + four(8) + two(1) + tag + two(type) +
         four(1) + data + four(0);
}

void test_orientation() {
  std::string file;
  for (int value = 0; value <= 9; ++value)
    for (bool little : {false, true})
      for (char type : {3, 4}) {
        const std::string exif = exif_with(value, little, type);
        const int expected = value >= 1 && value <= 8 ? value : 1;
        CHECK(orientation(metadata_of_jpeg(jpeg_with(exif, &file))) == expected,
              "EXIF orientation " + std::to_string(value));
        for (size_t length = 0; length < exif.size(); ++length)
          orientation(metadata_of_jpeg(jpeg_with(exif.substr(0, length), &file)));
      }
  CHECK(orientation(metadata_of_jpeg(jpeg_with(exif_with(6, true, 2), &file))) == 1,
        "text is no orientation");
  const std::string xmp = std::string("http://ns.adobe.com/xap/1.0/", 29);
  CHECK(orientation(
            metadata_of_jpeg(jpeg_with(xmp + "tiff:Orientation='3' tiff:Orientation=\"8\"", &file))) == 8,
        "XMP");
  CHECK(orientation(metadata_of_jpeg(jpeg_with(xmp + "<tiff:Orientation>5<", &file))) == 5,
        "XMP as an element");
  CHECK(orientation({exif_with(7, true, 3), "tiff:Orientation=\"8\""}) == 7, "EXIF comes before XMP");
  CHECK(orientation({"garbage!", "tiff:Orientation=\"8\""}) == 1, "XMP beside broken EXIF is not asked");
  CHECK(exif_of_raw_profile("\nexif\n   3\n45 78\n69") == "Exi", "a raw profile");
  CHECK(exif_of_raw_profile("\nexif\n   3\n4x").empty(), "a broken raw profile");
}

void test_turns() {
  const std::vector<std::string> expected = {"abcdef", "badcfe", "fedcba", "efcdab",
                                             "acebdf", "ecafdb", "fdbeca", "bdface"};
  for (int turn = 1; turn <= 8; ++turn) {
    Image image = allocate(2, 3, 1);
    image.pixels = {'a', 'b', 'c', 'd', 'e', 'f'};
    const Image turned = upright(image, turn);
    const std::string pixels(turned.pixels.begin(), turned.pixels.end());
    CHECK(pixels == expected[turn - 1], "orientation " + std::to_string(turn) + " gives " + pixels);
    CHECK(turned.width == (turn < 5 ? 2 : 3), "orientation " + std::to_string(turn) + " has another width");
  }
}

}  // namespace

int main() {
  test_resize();
  test_rows_may_have_gaps_and_run_upwards();
  test_prepare();
  test_strips_cost_what_the_crop_sees();
  test_known_pictures();
  test_every_cut_and_every_flip_is_refused_or_shown();
  test_refusals();
  test_sizes_do_not_overflow();
  test_orientation();
  test_turns();
  return finish();
}
