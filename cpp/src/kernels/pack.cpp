// Weights into panels, in the order in which the products read them.

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace swinv2 {

size_t packed_bytes(Precision precision, int outs, int in, int width) {
  size_t steps = static_cast<size_t>(round_up(in, values_of_step(precision)) / values_of_step(precision));
  return static_cast<size_t>(round_up(outs, width)) * steps * 4;
}

namespace {

constexpr int BLOCK = 16;  // steps of a row at a time: what they touch of a panel stays in the first cache

// Values of one row into its column of a panel; encode(value, to) writes one of them.
template <int VALUES, class Encode>
void pack_row(const float* row, int in, int width, unsigned char* column, int first, int last,
              const Encode& encode) {
  const size_t step = static_cast<size_t>(width) * 4;
  for (int k = first; k < last; k++)
    for (int v = 0; v < VALUES; v++)
      if (k * VALUES + v < in) encode(row[k * VALUES + v], column + k * step + v * (4 / VALUES));
}

template <int VALUES, class Encode>
void pack_panels(const float* w, int outs, int in, int width, unsigned char* data, const Encode& encode_of) {
  const int steps = (in + VALUES - 1) / VALUES;
  for (int panel = 0; panel * width < outs; panel++)
    for (int k = 0; k < steps; k += BLOCK)
      for (int c = 0; c < width && panel * width + c < outs; c++) {
        const int o = panel * width + c;
        pack_row<VALUES>(w + static_cast<size_t>(o) * in, in, width,
                         data + static_cast<size_t>(panel) * steps * width * 4 + c * 4, k,
                         k + BLOCK < steps ? k + BLOCK : steps, encode_of(o));
      }
}

float largest(const float* row, int in) {
  float most = 0;
  for (int i = 0; i < in; i++) {
    const float size = row[i] < 0 ? -row[i] : row[i];
    most = size > most ? size : most;
  }
  return most;
}

}  // namespace

void pack(Precision precision, const float* w, int outs, int in, int width, int offset, unsigned char* data,
          float* scale) {
  std::memset(data, precision == Precision::int8 ? offset : 0,
              packed_bytes(precision, outs, in, width));  // zeros
  if (precision == Precision::fp32) {
    const auto encode = [](float value, unsigned char* to) { std::memcpy(to, &value, 4); };
    return pack_panels<1>(w, outs, in, width, data, [&](int) { return encode; });
  }
  if (precision == Precision::bf16) {
    const auto encode = [](float value, unsigned char* to) {
      const uint16_t rounded = to_bf16(value);
      std::memcpy(to, &rounded, 2);
    };
    return pack_panels<2>(w, outs, in, width, data, [&](int) { return encode; });
  }
  for (int o = 0; o < outs; o++) scale[o] = largest(w + static_cast<size_t>(o) * in, in) / 127;
  pack_panels<4>(w, outs, in, width, data, [&](int o) {
    const float inverse = scale[o] > 0 ? 1 / scale[o] : 0;
    return [inverse, offset](float value, unsigned char* to) {
      *to = static_cast<unsigned char>(static_cast<int>(std::lrintf(value * inverse)) + offset);
    };
  });
}

}  // namespace swinv2
