// From a decoded picture to the tensor: the twin of src/swinv2/preprocess.py, to the last bit.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "../error.h"
#include "decode.h"
#include "resample.h"

namespace swinv2 {
namespace {

struct Placement {  // the scaled picture, and the crop in it, which may reach beyond its edges
  int64_t width, height;
  int64_t left, top;
};

// Where a centred crop starts; negative where the crop is the longer one.
int64_t centre(int64_t length, int64_t crop) {
  if (length < crop) return -((crop - length) / 2);
  const int64_t spare = length - crop, half = spare / 2;
  return half + (spare % 2 != 0 && half % 2 != 0 ? 1 : 0);  // Python's round(): half to even
}

Placement placement_of(const View& image, const Preprocess& preprocess) {
  if (preprocess.squash) return {preprocess.size.cols, preprocess.size.rows, 0, 0};
  const int64_t shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  // A double holds the product as long as it has 53 bits; the quotient is then rounded once, as in Python.
  const int64_t product = preprocess.resize_to * longer;
  if (product >= int64_t{1} << 53)
    throw Error(SWINV2_BAD_MODEL, "the record scales pictures to " + std::to_string(preprocess.resize_to) +
                                      " pixels, which is more than is computed");
  const auto scaled = static_cast<int64_t>(static_cast<double>(product) / static_cast<double>(shorter));
  Placement place{preprocess.resize_to, scaled, 0, 0};
  if (image.width > image.height) std::swap(place.width, place.height);
  place.left = centre(place.width, preprocess.size.cols);
  place.top = centre(place.height, preprocess.size.rows);
  return place;
}

// Every value of a byte, normalised.
using Table = std::array<float, 256>;

Table normalised(float mean, float std) {
  Table table;
  for (int value = 0; value < 256; ++value) table[value] = (static_cast<float>(value) / 255.0f - mean) / std;
  return table;
}

}  // namespace

void prepare(const View& image, const Preprocess& preprocess, float* tensor) {
  refuse_size(image.width, image.height);
  const auto channels = static_cast<int>(preprocess.mean.size());
  if (image.channels != channels || (channels != 1 && channels != 3))
    throw Error(SWINV2_BAD_ARGUMENT, "the picture has " + std::to_string(image.channels) +
                                         " channels and the model " + std::to_string(channels) +
                                         "; both need the same, 1 or 3 (others take prepared tensors)");
  const Placement place = placement_of(image, preprocess);
  const int64_t rows = preprocess.size.rows, cols = preprocess.size.cols;
  const Box seen{std::max<int64_t>(place.left, 0), std::max<int64_t>(place.top, 0),
                 std::min(place.left + cols, place.width), std::min(place.top + rows, place.height)};
  const Image pixels = resize_part(image, place.width, place.height, seen, preprocess.bicubic);

  for (int c = 0; c < channels; ++c) {
    const Table table = normalised(preprocess.mean[c], preprocess.std[c]);
    float* plane = tensor + c * rows * cols;
    std::fill(plane, plane + rows * cols, table[0]);  // black where the picture does not reach
    for (int y = 0; y < pixels.height; ++y) {
      const uint8_t* in = pixels.pixels.data() + static_cast<size_t>(y) * pixels.width * channels + c;
      float* out = plane + (seen.top - place.top + y) * cols + (seen.left - place.left);
      for (int x = 0; x < pixels.width; ++x) out[x] = table[in[static_cast<ptrdiff_t>(x) * channels]];
    }
  }
}

}  // namespace swinv2
