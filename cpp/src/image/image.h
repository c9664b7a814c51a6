// From a picture to the tensor that a model sees; every pixel as images.py and preprocess.py give it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../config.h"

namespace swinv2 {

// 8-bit pixels, row after row without gaps.
struct Image {
  int width = 0, height = 0, channels = 0;  // channels: 1 grey, 3 RGB
  std::vector<uint8_t> pixels;

  uint8_t* row(int y) { return pixels.data() + static_cast<size_t>(y) * width * channels; }
};

// A picture somewhere in memory.
struct View {
  const uint8_t* pixels;
  int width, height, channels;
  ptrdiff_t row_bytes;
};

// Encoded bytes -> upright (EXIF), opaque (transparency on white) 8-bit pixels of 1 or 3 channels; the first
// frame. Throws Error BAD_IMAGE with what is wrong, UNSUPPORTED with what this build lacks. Sentences begin
// with "the image ", for which a caller that knows a name can put it.
Image decode(const unsigned char* bytes, size_t size, int channels);

// What decode() reads in this build: "jpeg png webp".
const char* decoders();

// Pillow's Image.resize, to the last bit (its fixed-point arithmetic, its order of the two passes).
Image resize(const View& image, int width, int height, bool bicubic);

// Resize, crop, normalise: float [channels, size.rows, size.cols] as the record says. Memory stays bounded
// for thin strips: only what the crop keeps is computed.
void prepare(const View& image, const Preprocess& preprocess, float* tensor);

}  // namespace swinv2
