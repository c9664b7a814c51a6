// gelu(x) = x / 2 + |x| h(|x|) with h(t) = erf(t / sqrt 2) / 2, and h as a cubic in each of 32 (or 16) equal
// pieces of [0, 5.6], so that a register permutation finds the coefficients. Beyond, 1 - erf is below 3e-8.
// Largest error of h: 3e-7 with 32 pieces, 4e-6 with 16, which is below the rounding of bfloat16.
#pragma once

namespace swinv2 {

constexpr float GELU_END = 5.6f;

// coefficient[i][piece] of f^i, f in [0, 1) from the start of the piece to its end.
template <int PIECES>
struct GeluTable {
  alignas(64) float coefficient[4][PIECES];
  GeluTable();  // gelu.cpp
};

extern const GeluTable<32> gelu_fine;
extern const GeluTable<16> gelu_coarse_table;

}  // namespace swinv2
