// Every function of every table that this processor has against the reference, over awkward shapes, in memory
// whose unused parts are poisoned: what is read there becomes NaN in the result, what is written there is
// found afterwards.

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/kernels.h"
#include "memory.h"

using namespace swinv2;

namespace {

constexpr float POISON = std::numeric_limits<float>::quiet_NaN();
std::mt19937 generator(1);

float normal() {
  static std::normal_distribution<float> distribution;
  return distribution(generator);
}

std::vector<float> normals(size_t count, float scale = 1) {
  std::vector<float> values(count);
  for (float& v : values) v = normal() * scale;
  return values;
}

// Rows of an operand with poison behind every row.
struct Rows {
  Memory data, scale, sum;
  Operand operand;
  Rows(Precision precision, int rows, int padded) {
    operand.precision = precision;
    operand.stride = static_cast<size_t>(round_up(padded * bytes_of_value(precision), 64) + 64);
    data = Memory(operand.stride * static_cast<size_t>(rows));
    std::memset(data.data(), 0xff, data.size());  // NaN in float and in bfloat16
    scale = Memory(sizeof(float) * static_cast<size_t>(rows));
    sum = Memory(sizeof(int32_t) * static_cast<size_t>(rows));
    operand.data = data.data();
    operand.scale = scale.floats();
    operand.sum = reinterpret_cast<int32_t*>(sum.data());
  }
};

Operand floats(std::vector<float>& rows, size_t stride) {
  return {Precision::fp32, reinterpret_cast<unsigned char*>(rows.data()), stride * sizeof(float), nullptr,
          nullptr};
}

// A matrix packed for a table.
struct Matrix {
  Memory data, scale, bias;
  Packed packed;
  Matrix(const Kernels& k, Precision precision, const std::vector<float>& w, const std::vector<float>& b,
         int outs, int in)
      : data(packed_bytes(precision, outs, in, k.width)) {
    const int padded = round_up(outs, k.width), values = values_of_step(precision);
    scale = Memory(sizeof(float) * static_cast<size_t>(padded));
    bias = Memory(sizeof(float) * static_cast<size_t>(padded));
    std::memset(scale.data(), 0, scale.size());
    std::memset(bias.data(), 0, bias.size());
    std::copy(b.begin(), b.end(), bias.floats());
    pack(precision, w.data(), outs, in, k.width, k.offset, data.data(), scale.floats());
    packed = {precision,     outs,          in, padded / k.width, round_up(in, values) / values, data.data(),
              bias.floats(), scale.floats()};
  }
};

// The largest difference, as a share of the largest value (of smallest at least).
double worst(const std::vector<float>& a, const std::vector<float>& b, double smallest = 1e-30) {
  double largest = smallest, error = 0;
  for (size_t i = 0; i < a.size(); i++) {
    largest = std::fmax(largest, std::fabs(b[i]));
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    error = std::isnan(difference) ? INFINITY : std::fmax(error, difference);
  }
  return error / largest;
}

std::vector<float> values_of(const Operand& x, int rows, int cols) {
  std::vector<float> values;
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < cols; i++) {
      const unsigned char* data = x.data + static_cast<size_t>(r) * x.stride;
      if (x.precision == Precision::fp32) values.push_back(reinterpret_cast<const float*>(data)[i]);
      else if (x.precision == Precision::bf16)
        values.push_back(from_bf16(reinterpret_cast<const uint16_t*>(data)[i]));
      else values.push_back(static_cast<float>(reinterpret_cast<const int8_t*>(data)[i]) * x.scale[r]);
    }
  return values;
}

std::string shape(const Kernels& k, int precision, int a, int b, int c) {
  return std::string(k.name) + " precision " + std::to_string(precision) + ": " + std::to_string(a) + " " +
         std::to_string(b) + " " + std::to_string(c);
}

void test_products(const Kernels& k) {
  const Kernels& exact = *reference_kernels();
  const int shapes[][3] = {{1, 1, 16},   {1, 7, 16},    {2, 32, 48},   {13, 33, 96},   {14, 96, 100},
                           {15, 40, 32}, {29, 288, 96}, {64, 64, 384}, {3, 1000, 768}, {144, 48, 20}};
  for (const auto& s : shapes)
    for (int p = 0; p < 3; p++) {
      const Precision precision = static_cast<Precision>(p);
      if ((precision == Precision::bf16 && !k.bf16) || (precision == Precision::int8 && !k.int8)) continue;
      const int rows = s[0], outs = s[1], in = s[2], padded = round_up(in, 4);
      const std::vector<float> w = normals(static_cast<size_t>(outs * in), 0.3f),
                               b = normals(static_cast<size_t>(outs));
      Rows x(precision, rows, padded);
      for (int r = 0; r < rows; r++)
        exact.encode(x.operand, r, normals(static_cast<size_t>(in), r % 3 ? 1.0f : 20.0f).data(), in, padded);
      const Matrix mine(k, precision, w, b, outs, in), theirs(exact, precision, w, b, outs, in);
      const size_t stride = static_cast<size_t>(round_up(outs, 32)) + 16;
      std::vector<float> out(stride * static_cast<size_t>(rows), POISON),
          right(stride * static_cast<size_t>(rows), POISON);
      k.linear(floats(out, stride), x.operand, rows, mine.packed, 0, mine.packed.panels);
      exact.linear(floats(right, stride), x.operand, rows, theirs.packed, 0, theirs.packed.panels);
      std::vector<float> a, c;
      bool clean = true;
      for (int r = 0; r < rows; r++) {
        for (int o = 0; o < outs; o++)
          a.push_back(out[r * stride + static_cast<size_t>(o)]),
              c.push_back(right[r * stride + static_cast<size_t>(o)]);
        for (size_t o = static_cast<size_t>(mine.packed.panels * k.width); o < stride; o++)
          clean &= std::isnan(out[r * stride + o]);
      }
      CHECK(worst(a, c) < 2e-6,
            shape(k, p, rows, outs, in) + " linear differs by " + std::to_string(worst(a, c)));
      CHECK(clean, shape(k, p, rows, outs, in) + " linear writes beyond its panels");
      for (Precision to : {Precision::fp32, Precision::bf16}) {
        if (to == Precision::bf16 && (!k.bf16 || precision == Precision::fp32)) continue;
        Rows y(to, rows, round_up(outs, 32)), z(to, rows, round_up(outs, 32));
        k.linear_gelu(y.operand, x.operand, rows, mine.packed, 0, mine.packed.panels);
        exact.linear_gelu(z.operand, x.operand, rows, theirs.packed, 0, theirs.packed.panels);
        const double error = worst(values_of(y.operand, rows, outs), values_of(z.operand, rows, outs), 1);
        const double allowed = to == Precision::bf16 ? 1.0 / 256 : precision == Precision::fp32 ? 2e-6 : 1e-5;
        CHECK(error < allowed, shape(k, p, rows, outs, in) + " gelu differs by " + std::to_string(error));
        if (to != Precision::bf16) continue;
        k.linear(y.operand, x.operand, rows, mine.packed, 0, mine.packed.panels);
        exact.linear(z.operand, x.operand, rows, theirs.packed, 0, theirs.packed.panels);
        const double rounding = worst(values_of(y.operand, rows, outs), values_of(z.operand, rows, outs), 1);
        CHECK(rounding < 1.0 / 256,
              shape(k, p, rows, outs, in) + " linear into bf16 differs by " + std::to_string(rounding));
      }
    }
}

// Sums of int8 are exact, so all sets give the same to the last bit, however they multiply and add.
void test_int8_is_the_same(const Kernels& k, const Kernels& other) {
  for (int rows = 1; rows < 30; rows++)
    for (int in : {1, 4, 5, 12, 96, 100, 3072}) {
      const int outs = 48, padded = round_up(in, 4);
      Rows x(Precision::int8, rows, padded);
      for (int r = 0; r < rows; r++)
        k.encode(x.operand, r, normals(static_cast<size_t>(in)).data(), in, padded);
      const std::vector<float> w = normals(static_cast<size_t>(outs * in)),
                               b = normals(static_cast<size_t>(outs));
      const Matrix one(k, Precision::int8, w, b, outs, in), two(other, Precision::int8, w, b, outs, in);
      const size_t stride = static_cast<size_t>(round_up(outs, 64));  // whole panels are written
      std::vector<float> mine(stride * static_cast<size_t>(rows)), theirs = mine;
      k.linear(floats(mine, stride), x.operand, rows, one.packed, 0, one.packed.panels);
      other.linear(floats(theirs, stride), x.operand, rows, two.packed, 0, two.packed.panels);
      for (int r = 0; r < rows; r++)
        CHECK(!std::memcmp(&mine[r * stride], &theirs[r * stride], sizeof(float) * outs),
              shape(k, 2, rows, outs, in) + " int8 is not that of " + other.name);
    }
}

void test_gelu_everywhere(const Kernels& k) {  // through a product with 1
  Rows x(Precision::fp32, 1, 4), y(Precision::fp32, 1, 32);
  const Matrix one(k, Precision::fp32, std::vector<float>(4, 1.0f), {0}, 1, 4);
  double error = 0;
  for (float v = -12; v < 12; v += 0.0009765625f) {
    const float values[4] = {v, 0, 0, 0};
    k.encode(x.operand, 0, values, 4, 4);
    k.linear_gelu(y.operand, x.operand, 1, one.packed, 0, one.packed.panels);
    const double right = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    error = std::fmax(error, std::fabs(reinterpret_cast<float*>(y.operand.data)[0] - right) /
                                 std::fmax(1, std::fabs(right)));
  }
  CHECK(error < 1e-6, std::string(k.name) + " gelu is off by " + std::to_string(error * 1e6) + "e-6");
}

void test_rows(const Kernels& k) {
  const Kernels& exact = *reference_kernels();
  for (int cols : {16, 48, 96, 112, 512, 3072}) {
    const size_t size = static_cast<size_t>(cols);
    const std::vector<float> gain = normals(size), bias = normals(size);
    std::vector<float> x = normals(size, 3), y(size), z(size);
    for (float& v : x) v += 40;  // a mean that dwarfs the deviation
    k.norm(y.data(), x.data(), cols, gain.data(), bias.data());
    exact.norm(z.data(), x.data(), cols, gain.data(), bias.data());
    CHECK(worst(y, z) < 1e-5, std::string(k.name) + " norm of " + std::to_string(cols) + " differs by " +
                                  std::to_string(worst(y, z)));
    y = z = normals(size);
    k.add_norm(y.data(), x.data(), cols, gain.data(), bias.data());
    exact.add_norm(z.data(), x.data(), cols, gain.data(), bias.data());
    CHECK(worst(y, z) < 1e-5, std::string(k.name) + " add_norm of " + std::to_string(cols) + " differs by " +
                                  std::to_string(worst(y, z)));
  }
  for (int cols : {1, 3, 16, 27, 100, 768})
    for (int p = 0; p < 3; p++) {
      const Precision precision = static_cast<Precision>(p);
      if ((precision == Precision::bf16 && !k.bf16) || (precision == Precision::int8 && !k.int8)) continue;
      const int padded = round_up(cols, 4);
      Rows mine(precision, 1, padded), theirs(precision, 1, padded);
      const std::vector<float> x = normals(static_cast<size_t>(cols));
      k.encode(mine.operand, 0, x.data(), cols, padded);
      exact.encode(theirs.operand, 0, x.data(), cols, padded);
      CHECK(!std::memcmp(mine.data.data(), theirs.data.data(), mine.data.size()),
            shape(k, p, cols, padded, 0) + " encode differs");
      if (precision == Precision::int8)
        CHECK(mine.operand.sum[0] == theirs.operand.sum[0], shape(k, p, cols, padded, 0) + " sums differ");
    }
}

void test_attention(const Kernels& k) {
  const Kernels& exact = *reference_kernels();
  const int windows[][2] = {{1, 1}, {1, 2}, {2, 2},   {3, 5},   {4, 4},   {5, 8},   {6, 6},  {7, 7},
                            {8, 7}, {8, 8}, {12, 12}, {14, 14}, {16, 16}, {24, 24}, {16, 24}};
  for (const auto& window : windows)
    for (int head_dim : {16, 32, 48, 64})
      for (int masked = 0; masked < 2; masked++)
        for (int p = 0; p < 2; p++) {
          if (p == 1 && !k.bf16) continue;
          const int rows = window[0], cols = window[1], tokens = rows * cols, heads = 2,
                    dim = heads * head_dim;
          if (tokens > 200 && head_dim != 32) continue;
          const size_t padded = static_cast<size_t>(round_up(tokens, 32));
          Rows qkv(static_cast<Precision>(p), tokens, 3 * dim);
          for (int t = 0; t < tokens; t++) {
            std::vector<float> row = normals(static_cast<size_t>(3 * dim));
            if (t == 1) std::fill_n(row.begin(), 2 * dim, 0.0f);  // a zero vector has no direction
            exact.encode(qkv.operand, t, row.data(), 3 * dim, 3 * dim);
          }
          std::vector<float> table(static_cast<size_t>((2 * rows - 1) * (2 * cols - 1) + 64), POISON);
          for (int i = 0; i < (2 * rows - 1) * (2 * cols - 1); i++)
            table[static_cast<size_t>(i)] = 8 + 4 * normal();
          std::vector<unsigned char> region(static_cast<size_t>(tokens));
          std::vector<float> masks(5 * padded, 0.0f);
          for (int i = 0; i < tokens; i++)
            region[static_cast<size_t>(i)] = static_cast<unsigned char>(i / cols >= rows / 2 ? 1 : 0) * 4;
          for (int r = 0; r < 5; r++)
            for (int i = 0; i < tokens; i++)
              masks[static_cast<size_t>(r) * padded + static_cast<size_t>(i)] =
                  region[static_cast<size_t>(i)] == r ? 0
                  : masked && head_dim == 32          ? -1e30f
                                                      : -100.0f;
          Memory scratch(attention_scratch(tokens, head_dim));
          std::memset(scratch.data(), 0xff, scratch.size());
          Attention a;
          a.precision = qkv.operand.precision;
          a.qkv = qkv.operand.data + head_dim * bytes_of_value(a.precision);  // the second head
          a.stride = qkv.operand.stride;
          a.dim = dim;
          a.head_dim = head_dim;
          a.rows = rows;
          a.cols = cols;
          a.scale = 30;
          a.table = table.data();
          a.region = masked ? region.data() : nullptr;
          a.masks = masks.data();
          a.masks_stride = padded;
          a.out_precision = Precision::fp32;
          std::vector<float> out(static_cast<size_t>(tokens * dim), POISON), right = out;
          a.out_stride = sizeof(float) * static_cast<size_t>(dim);
          a.out = reinterpret_cast<unsigned char*>(out.data());
          k.attention(a, scratch.data());
          a.out = reinterpret_cast<unsigned char*>(right.data());
          exact.attention(a, nullptr);
          std::vector<float> x, y;
          bool clean = true;
          for (int t = 0; t < tokens; t++)
            for (int c = 0; c < dim; c++) {
              const float value = out[static_cast<size_t>(t * dim + c)];
              if (c < head_dim) x.push_back(value), y.push_back(right[static_cast<size_t>(t * dim + c)]);
              else clean &= std::isnan(value);
            }
          const std::string what = std::string(k.name) + (p ? " bf16" : " fp32") + (masked ? " masked" : "") +
                                   " window " + std::to_string(rows) + " x " + std::to_string(cols) +
                                   " head " + std::to_string(head_dim);
          CHECK(worst(x, y) < (p ? 0.06 : 2e-5), what + " differs by " + std::to_string(worst(x, y)));
          CHECK(clean, what + " writes beside its head");
        }
}

}  // namespace

int main() {
  const Kernels* const* tables;
  const int count = kernel_tables(&tables);
  for (int i = 0; i + 1 < count; i++) {
    test_products(*tables[i]);
    test_gelu_everywhere(*tables[i]);
    test_rows(*tables[i]);
    test_attention(*tables[i]);
    for (int j = 0; j < i; j++)
      if (tables[i]->int8 && tables[j]->int8) test_int8_is_the_same(*tables[i], *tables[j]);
    std::printf("%s: tested\n", tables[i]->name);
  }
  return finish();
}
