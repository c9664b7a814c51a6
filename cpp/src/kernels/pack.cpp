// Weights into panels, in the order in which the products read them.

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace swinv2 {

size_t packed_bytes(Precision precision, int outs, int in, int width) {
  size_t steps = static_cast<size_t>(round_up(in, values_of_step(precision)) / values_of_step(precision));
  return static_cast<size_t>(round_up(outs, width)) * steps * 4;
}

void pack(Precision precision, const float* w, int outs, int in, int width, unsigned char* data, float* scale) {
  const int values = values_of_step(precision), steps = round_up(in, values) / values;
  const size_t bytes = packed_bytes(precision, outs, in, width);
  std::memset(data, precision == Precision::int8 ? 128 : 0, bytes);  // zero, as int8 is stored
  for (int o = 0; o < outs; o++) {
    const float* row = w + static_cast<size_t>(o) * in;
    float largest = 0;
    for (int i = 0; i < in; i++) largest = std::fmax(largest, std::fabs(row[i]));
    const float step = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
    if (precision == Precision::int8) scale[o] = step;
    unsigned char* panel = data + static_cast<size_t>(o / width) * steps * width * 4 + (o % width) * 4;
    for (int i = 0; i < in; i++) {
      unsigned char* to = panel + static_cast<size_t>(i / values) * width * 4;
      const int place = i % values;
      if (precision == Precision::fp32) {
        std::memcpy(to, row + i, 4);
      } else if (precision == Precision::bf16) {
        const uint16_t value = to_bf16(row[i]);
        std::memcpy(to + 2 * place, &value, 2);
      } else {
        to[place] = static_cast<unsigned char>(std::lrintf(row[i] * inverse) + 128);
      }
    }
  }
}

}  // namespace swinv2
