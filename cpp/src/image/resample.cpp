// Pillow's resize for 8-bit images, to the last bit: weights in double precision, rounded to 22 bits of
// fraction, one axis after the other with 8-bit values between. Which axis comes first shows in the last
// bits.
//
// Pixels of a pass do not depend on each other, so a part of the result costs only what it looks at. This
// must be compiled without contracting a * b + c to one rounding (-ffp-contract=off), which would change the
// weights.

#include "resample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "decode.h"

namespace swinv2 {
namespace {

constexpr int PRECISION = 22;         // bits of fraction of a weight: 32, less 8 of a pixel and 2 of headroom
constexpr size_t MAX_TAPS = 1 << 20;  // weights in memory at a time

double cubic(double x) {  // Keys, a = -0.5
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double linear(double x) { return std::max(1 - std::fabs(x), 0.0); }

// One axis of a resize: which inputs an output looks at, and with which weights.
class Axis {
 public:
  Axis(int length, int64_t resized, bool bicubic) : length_(length), bicubic_(bicubic) {
    // Pillow keeps the length as a float, which shows beyond 2^24; resample.py, which enlarges, does not.
    const double whole = resized < length ? static_cast<double>(static_cast<float>(length)) : length;
    scale_ = whole / static_cast<double>(resized);
    stretch_ = std::max(scale_, 1.0);
    support_ = (bicubic ? 2.0 : 1.0) * stretch_;
  }

  struct Span {
    int first, end;
  };
  Span span(int64_t output) const {
    const double centre = middle(output);
    return {std::max(static_cast<int>(centre - support_ + 0.5), 0),
            std::min(static_cast<int>(centre + support_ + 0.5), length_)};
  }
  Span span(int64_t start, int64_t stop) const { return {span(start).first, span(stop - 1).end}; }

  // The weights of span(output).
  void weights(int64_t output, int32_t* out) const {
    const Span taps = span(output);
    const double centre = middle(output), shrink = 1.0 / stretch_;
    std::vector<double>& raw = raw_;
    raw.resize(taps.end - taps.first);
    double sum = 0;
    for (int i = taps.first; i < taps.end; ++i) {
      const double x = (i - centre + 0.5) * shrink;
      raw[i - taps.first] = bicubic_ ? cubic(x) : linear(x);
      sum += raw[i - taps.first];
    }
    for (double weight : raw) {
      if (sum != 0) weight /= sum;
      *out++ = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << PRECISION));
    }
  }

 private:
  double middle(int64_t output) const { return (static_cast<double>(output) + 0.5) * scale_; }

  int length_;
  bool bicubic_;
  double scale_, stretch_, support_;
  mutable std::vector<double> raw_;
};

// The weights of neighbouring outputs, in memory.
struct Taps {
  struct Output {
    int first, count;  // inputs
    const int32_t* weights;
  };
  std::vector<Output> outputs;
  std::vector<int32_t> weights;

  // As many outputs from start on as memory is granted for, one at least.
  Taps(const Axis& axis, int64_t start, int64_t stop) {
    size_t total = 0;
    for (int64_t i = start; i < stop; ++i) {
      const Axis::Span span = axis.span(i);
      const size_t count = span.end - span.first;
      if (i > start && total + count > MAX_TAPS) break;
      outputs.push_back({span.first, static_cast<int>(count), nullptr});
      total += count;
    }
    weights.resize(total);
    int32_t* next = weights.data();
    for (Output& output : outputs) {
      axis.weights(start++, next);
      output.weights = next;
      next += output.count;
    }
  }
};

constexpr int32_t HALF = 1 << (PRECISION - 1);

uint8_t to_pixel(int32_t sum) { return static_cast<uint8_t>(std::min(std::max(sum >> PRECISION, 0), 255)); }

// Not limited as pictures are: what lies between the passes may be longer than both of its ends.
Image image_of(int64_t width, int64_t height, int channels) {
  Image image;
  image.width = static_cast<int>(width);
  image.height = static_cast<int>(height);
  image.channels = channels;
  image.pixels.resize(static_cast<size_t>(width) * height * channels);
  return image;
}

// A row of outputs from a row of inputs that begins at input `first`.
template <int Channels>
void resample_row(uint8_t* out, const uint8_t* row, int first, const Taps& taps) {
  for (const Taps::Output& output : taps.outputs) {
    const uint8_t* in = row + static_cast<ptrdiff_t>(output.first - first) * Channels;
    int32_t sums[Channels];
    for (int c = 0; c < Channels; ++c) sums[c] = HALF;
    for (int i = 0; i < output.count; ++i, in += Channels)
      for (int c = 0; c < Channels; ++c) sums[c] += in[c] * output.weights[i];
    for (int c = 0; c < Channels; ++c) *out++ = to_pixel(sums[c]);
  }
}

// Outputs left to right of every row. image begins at column `first` of the axis.
Image resample_rows(const View& image, int first, const Axis& axis, int64_t left, int64_t right) {
  Image result = image_of(right - left, image.height, image.channels);
  const size_t stride = static_cast<size_t>(result.width) * result.channels;
  for (int64_t x = left; x < right;) {
    const Taps taps(axis, x, right);
    uint8_t* out = result.pixels.data() + static_cast<size_t>(x - left) * result.channels;
    const uint8_t* row = image.pixels;
    for (int y = 0; y < image.height; ++y, row += image.row_bytes, out += stride) {
      if (image.channels == 1) resample_row<1>(out, row, first, taps);
      else resample_row<3>(out, row, first, taps);
    }
    x += static_cast<int64_t>(taps.outputs.size());
  }
  return result;
}

// Outputs top to bottom of every column. image begins at row `first` of the axis.
Image resample_columns(const View& image, int first, const Axis& axis, int64_t top, int64_t bottom) {
  Image result = image_of(image.width, bottom - top, image.channels);
  const size_t values = static_cast<size_t>(image.width) * image.channels;
  std::vector<int32_t> sums(values);
  uint8_t* out = result.pixels.data();
  for (int64_t y = top; y < bottom;) {
    const Taps taps(axis, y, bottom);
    for (const Taps::Output& output : taps.outputs) {
      std::fill(sums.begin(), sums.end(), HALF);
      for (int i = 0; i < output.count; ++i) {
        const uint8_t* row = image.pixels + (output.first - first + i) * image.row_bytes;
        const int32_t weight = output.weights[i];
        for (size_t v = 0; v < values; ++v) sums[v] += row[v] * weight;
      }
      for (size_t v = 0; v < values; ++v) *out++ = to_pixel(sums[v]);
    }
    y += static_cast<int64_t>(taps.outputs.size());
  }
  return result;
}

View view_of(const Image& image) {
  return {image.pixels.data(), image.width, image.height, image.channels,
          static_cast<ptrdiff_t>(image.width) * image.channels};
}

// As Pillow 13 decides: where much more height than width is lost, the columns are made shorter first. Pillow
// 12 and older always begin with the rows, and their results differ there in a few last bits.
bool begins_with_columns(const View& image, int64_t width, int64_t height) {
  const int64_t lost_height = image.height - height, lost_width = image.width - width;
  return lost_height > 0 && lost_height > 2 * lost_width;
}

}  // namespace

Image resize_part(const View& image, int64_t width, int64_t height, const Box& box, bool bicubic) {
  const Axis across(image.width, width, bicubic), down(image.height, height, bicubic);
  const Axis::Span columns = across.span(box.left, box.right), rows = down.span(box.top, box.bottom);
  const ptrdiff_t corner = rows.first * image.row_bytes + ptrdiff_t{columns.first} * image.channels;
  const View looked_at{image.pixels + corner, columns.end - columns.first, rows.end - rows.first,
                       image.channels, image.row_bytes};
  if (begins_with_columns(image, width, height)) {
    const Image half = resample_columns(looked_at, rows.first, down, box.top, box.bottom);
    return resample_rows(view_of(half), columns.first, across, box.left, box.right);
  }
  const Image half = resample_rows(looked_at, columns.first, across, box.left, box.right);
  return resample_columns(view_of(half), rows.first, down, box.top, box.bottom);
}

Image resize(const View& image, int width, int height, bool bicubic) {
  refuse_size(image.width, image.height);
  return resize_part(image, width, height, {0, 0, width, height}, bicubic);
}

}  // namespace swinv2
