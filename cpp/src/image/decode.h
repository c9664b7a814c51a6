// What the decoders of the formats share: the limit, the refusals, and the way from a decoded row to pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "image.h"

namespace swinv2 {

// Where Pillow, and with it src/swinv2/images.py, refuses. A build for fuzzing sets it lower to be quick.
#ifndef SWINV2_MAX_PIXELS
#define SWINV2_MAX_PIXELS 178956970
#endif
constexpr int64_t MAX_PIXELS = SWINV2_MAX_PIXELS;

// Encoded bytes. Nothing is read beyond size.
struct Bytes {
  const unsigned char* data;
  size_t size;

  bool starts_with(const char* mark, size_t length) const;
  Bytes from(size_t offset) const {
    return offset < size ? Bytes{data + offset, size - offset} : Bytes{data, 0};
  }
};

// Throws where a picture is nothing, or too much to decode. Called before any memory depends on the size.
void refuse_size(int64_t width, int64_t height);

// An image of that size, after refuse_size().
Image allocate(int64_t width, int64_t height, int channels);

[[noreturn]] void throw_damaged(const std::string& reason);

// What the values of a decoded row are.
enum class Row { grey, grey_alpha, rgb, rgba, cmyk };

int values_of(Row kind);  // per pixel

// One decoded row as pixels of 1 or 3 channels, as Pillow converts them: transparency on white, grey by the
// weights of ITU-R 601, CMYK without a profile. out and row may not overlap.
void store_row(Row kind, const uint8_t* row, int width, int channels, uint8_t* out);

// Each is there where CMake found its library; pnm needs none. Those of stb_image may differ a little.
Image decode_jpeg(Bytes bytes, int channels);
Image decode_png(Bytes bytes, int channels);
Image decode_webp(Bytes bytes, int channels);
Image decode_pnm(Bytes bytes, int channels);
Image decode_stb(Bytes bytes, int channels);  // JPEG and PNG

}  // namespace swinv2
