// Binary PGM and PPM (P5, P6) of up to 8 bits: what programs without any library write.

#include <cmath>
#include <vector>

#include "../error.h"
#include "decode.h"

namespace swinv2 {
namespace {

bool is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The next number of the header, after white space and comments, and the one space behind it.
int64_t read_number(Bytes* rest) {
  const auto end = [&] { return rest->size == 0; };
  while (!end() && (is_space(rest->data[0]) || rest->data[0] == '#')) {
    const bool comment = rest->data[0] == '#';
    *rest = rest->from(1);
    while (comment && !end() && rest->data[0] != '\n' && rest->data[0] != '\r') *rest = rest->from(1);
  }
  int64_t number = 0;
  int digits = 0;
  for (; !end() && !is_space(rest->data[0]); *rest = rest->from(1), ++digits) {
    const unsigned char c = rest->data[0];
    if (c < '0' || c > '9' || digits == 10) throw_damaged("its header cannot be read");
    number = number * 10 + (c - '0');
  }
  if (digits == 0 || end()) throw_damaged("its header cannot be read");
  *rest = rest->from(1);
  return number;
}

}  // namespace

Image decode_pnm(Bytes bytes, int channels) {
  const Row kind = bytes.data[1] == '5' ? Row::grey : Row::rgb;
  Bytes rest = bytes.from(2);
  if (rest.size == 0 || !is_space(rest.data[0])) throw_damaged("its header cannot be read");
  const int64_t width = read_number(&rest), height = read_number(&rest), largest = read_number(&rest);
  refuse_size(width, height);
  if (largest < 1 || largest > 65535) throw_damaged("its largest value is " + std::to_string(largest));
  if (largest > 255)
    throw Error(SWINV2_UNSUPPORTED, "the image is a PNM of 16 bits, which is not read; make it 8 bits");
  const size_t stride = static_cast<size_t>(width) * values_of(kind);
  if (rest.size / stride < static_cast<size_t>(height)) throw_damaged("its data ends too early");

  Image image = allocate(width, height, channels);
  std::vector<uint8_t> row(stride);
  for (int y = 0; y < image.height; ++y, rest = rest.from(stride)) {
    for (size_t i = 0; i < stride; ++i) {
      const double value = std::nearbyint(rest.data[i] / static_cast<double>(largest) * 255);  // half to even
      row[i] = static_cast<uint8_t>(value < 255 ? value : 255);
    }
    store_row(kind, row.data(), image.width, channels, image.row(y));
  }
  return image;
}

}  // namespace swinv2
