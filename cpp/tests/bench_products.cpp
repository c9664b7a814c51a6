// How fast the matrix products are alone, on one thread, over the shapes of swinv2_tiny_window8_256 at 256 pixels: a line of
// JSON each. No test: benchmarks/footprint.py runs it and puts the ceiling of the processor beside it.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "memory.h"

using namespace swinv2;

namespace {

constexpr int TRIES = 60;
const char* const NAMES[] = {"fp32", "bf16", "int8"};

// Rows, outs and in of the products of a group of windows in stages 1 and 3, and of stage 4, which has 64 tokens.
const int SHAPES[][3] = {{128, 288, 96},   {128, 384, 96},   {128, 96, 384},  {128, 1152, 384},
                         {128, 1536, 384}, {128, 384, 1536}, {64, 3072, 768}, {64, 768, 3072}};

double giga_operations(const Kernels& k, Precision precision, int rows, int outs, int in) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> weights(static_cast<size_t>(outs) * in), row(static_cast<size_t>(in));
  for (float& w : weights) w = normal(generator);
  const int padded = round_up(outs, k.width), steps = in / values_of_step(precision);
  Memory data(packed_bytes(precision, outs, in, k.width)), scale(sizeof(float) * padded),
      bias(sizeof(float) * padded);
  std::memset(scale.data(), 0, scale.size());
  std::memset(bias.data(), 0, bias.size());
  pack(precision, weights.data(), outs, in, k.width, k.offset, data.data(), scale.floats());
  const Packed packed{precision,     outs,          in, padded / k.width, steps, data.data(),
                      bias.floats(), scale.floats()};
  const size_t stride = (static_cast<size_t>(steps) * 4 / LINE | 1) * LINE,
               out_stride = static_cast<size_t>(padded) + 16;
  Memory x(stride * rows), scales(sizeof(float) * rows), sums(sizeof(int32_t) * rows),
      out(sizeof(float) * out_stride * rows);
  const Operand operand{precision, x.data(), stride, scales.floats(),
                        reinterpret_cast<int32_t*>(sums.data())};
  const Operand result{Precision::fp32, out.data(), out_stride * sizeof(float), nullptr, nullptr};
  for (int r = 0; r < rows; r++) {
    for (float& value : row) value = normal(generator);
    k.encode(operand, r, row.data(), in, in);
  }
  std::vector<double> seconds;
  for (int i = 0; i < TRIES; i++) {
    const auto start = std::chrono::steady_clock::now();
    k.linear(result, operand, rows, packed, 0, packed.panels);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + TRIES / 2, seconds.end());
  return 2e-9 * rows * outs * in / seconds[TRIES / 2];
}

}  // namespace

int main() {
  const Kernels* const* tables;
  kernel_tables(&tables);
  const Kernels& k = *tables[0];
  for (int p = 0; p < 3; p++) {
    if ((p == 1 && !k.bf16) || (p == 2 && !k.int8)) continue;
    for (const auto& s : SHAPES)
      std::printf("{\"precision\": \"%s\", \"rows\": %d, \"outs\": %d, \"in\": %d, \"gops\": %.1f}\n",
                  NAMES[p], s[0], s[1], s[2],
                  giga_operations(k, static_cast<Precision>(p), s[0], s[1], s[2]));
  }
}
