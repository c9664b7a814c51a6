// What every function of the table computes, as plain loops; the other tables are tested against this one.
// Sums run in double, so that the difference to a fast kernel is that kernel's own rounding.

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace swinv2 {
namespace {

constexpr int WIDTH = 16;
constexpr int OFFSET = 128;
constexpr double EPSILON = 1e-5;      // of LayerNorm
constexpr double NORM_FLOOR = 1e-12;  // of q and k, as in torch.nn.functional.normalize

float value_of(const Operand& x, int row, int i) {
  const unsigned char* data = x.data + row * x.stride;
  if (x.precision == Precision::fp32) return reinterpret_cast<const float*>(data)[i];
  if (x.precision == Precision::bf16) return from_bf16(reinterpret_cast<const uint16_t*>(data)[i]);
  return static_cast<float>(reinterpret_cast<const int8_t*>(data)[i]);  // without its scale
}

void set_value(const Operand& x, int row, int i, float value) {
  unsigned char* data = x.data + row * x.stride;
  if (x.precision == Precision::fp32) reinterpret_cast<float*>(data)[i] = value;
  else reinterpret_cast<uint16_t*>(data)[i] = to_bf16(value);
}

double product(const Operand& x, int row, const Packed& w, int out) {
  const int values = values_of_step(w.precision);
  const unsigned char* panel =
      w.data + static_cast<size_t>(out / WIDTH) * w.steps * WIDTH * 4 + (out % WIDTH) * 4;
  double sum = 0;
  for (int i = 0; i < w.steps * values; i++) {
    const unsigned char* at = panel + static_cast<size_t>(i / values) * WIDTH * 4;
    double weight;
    if (w.precision == Precision::fp32) weight = reinterpret_cast<const float*>(at)[0];
    else if (w.precision == Precision::bf16)
      weight = from_bf16(reinterpret_cast<const uint16_t*>(at)[i % values]);
    else weight = at[i % values] - OFFSET;
    sum += weight * value_of(x, row, i);
  }
  if (w.precision == Precision::int8) sum *= static_cast<double>(x.scale[row]) * w.scale[out];
  return sum + w.bias[out];
}

void linear(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last) {
  for (int r = 0; r < rows; r++)
    for (int o = first * WIDTH; o < last * WIDTH; o++)
      set_value(out, r, o, static_cast<float>(product(x, r, w, o)));
}

void linear_gelu(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last) {
  for (int r = 0; r < rows; r++)
    for (int o = first * WIDTH; o < last * WIDTH; o++) {
      const double y = product(x, r, w, o);
      set_value(out, r, o, static_cast<float>(0.5 * y * (1 + std::erf(y / std::sqrt(2.0)))));
    }
}

void encode(const Operand& out, int row, const float* x, int cols, int padded) {
  if (out.precision != Precision::int8) {
    for (int i = 0; i < padded; i++) set_value(out, row, i, i < cols ? x[i] : 0);
    return;
  }
  float largest = 0;
  for (int i = 0; i < cols; i++) largest = std::fmax(largest, std::fabs(x[i]));
  const float inverse = largest > 0 ? 127 / largest : 0;
  int8_t* data = reinterpret_cast<int8_t*>(out.data + row * out.stride);
  int32_t sum = 0;
  for (int i = 0; i < padded; i++) {
    data[i] = i < cols ? static_cast<int8_t>(std::lrintf(x[i] * inverse)) : int8_t{0};
    sum += data[i];
  }
  out.scale[row] = largest / 127;
  out.sum[row] = sum;
}

void normalize(const float* x, int cols, const float* gain, const float* bias, std::vector<double>& y) {
  double mean = 0, variance = 0;
  for (int i = 0; i < cols; i++) mean += x[i];
  mean /= cols;
  for (int i = 0; i < cols; i++) variance += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1 / std::sqrt(variance / cols + EPSILON);
  y.resize(static_cast<size_t>(cols));
  for (int i = 0; i < cols; i++) y[static_cast<size_t>(i)] = (x[i] - mean) * inverse * gain[i] + bias[i];
}

void norm(float* y, const float* x, int cols, const float* gain, const float* bias) {
  std::vector<double> values;
  normalize(x, cols, gain, bias, values);
  for (int i = 0; i < cols; i++) y[i] = static_cast<float>(values[static_cast<size_t>(i)]);
}

void add_norm(float* x, const float* y, int cols, const float* gain, const float* bias) {
  std::vector<double> values;
  normalize(y, cols, gain, bias, values);
  for (int i = 0; i < cols; i++) x[i] += static_cast<float>(values[static_cast<size_t>(i)]);
}

double length(const Operand& x, int row, int first, int n) {
  double sum = 0;
  for (int i = first; i < first + n; i++) sum += std::pow(value_of(x, row, i), 2);
  return std::fmax(std::sqrt(sum), NORM_FLOOR);
}

void attention(const Attention& a, unsigned char*) {
  const int tokens = a.rows * a.cols, k = a.dim, v = 2 * a.dim;
  std::vector<double> weight(static_cast<size_t>(tokens));
  const Operand qkv{a.precision, const_cast<unsigned char*>(a.qkv), a.stride, nullptr, nullptr};
  const Operand out{a.out_precision, a.out, a.out_stride, nullptr, nullptr};
  for (int i = 0; i < tokens; i++) {
    double largest = -INFINITY, total = 0;
    for (int j = 0; j < tokens; j++) {
      double logit = 0;
      for (int c = 0; c < a.head_dim; c++)
        logit += static_cast<double>(value_of(qkv, i, c)) * value_of(qkv, j, k + c);
      logit *= a.scale / length(qkv, i, 0, a.head_dim) / length(qkv, j, k, a.head_dim);
      const int down = i / a.cols - j / a.cols + a.rows - 1, across = j % a.cols - i % a.cols + a.cols - 1;
      logit += a.table[down * (2 * a.cols - 1) + across];
      if (a.region) logit += a.masks[a.region[i] * a.masks_stride + static_cast<size_t>(j)];
      weight[static_cast<size_t>(j)] = logit;
      largest = std::fmax(largest, logit);
    }
    for (double& w : weight) total += w = std::exp(w - largest);
    for (int c = 0; c < a.head_dim; c++) {
      double sum = 0;
      for (int j = 0; j < tokens; j++) sum += weight[static_cast<size_t>(j)] * value_of(qkv, j, v + c);
      set_value(out, i, c, static_cast<float>(sum / total));
    }
  }
}

constexpr Kernels TABLE{"reference", WIDTH,  OFFSET, true,     true,     linear,
                        linear_gelu, encode, norm,   add_norm, attention};

}  // namespace

const Kernels* reference_kernels() { return &TABLE; }

}  // namespace swinv2
