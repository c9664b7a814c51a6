// The pieces of GELU: cubics through the Chebyshev points of every piece.

#include "gelu.h"

#include <cmath>

namespace swinv2 {

template <int PIECES>
GeluTable<PIECES>::GeluTable() {
  const double pi = std::acos(-1.0);
  for (int piece = 0; piece < PIECES; piece++) {
    double at[4], difference[4];
    for (int i = 0; i < 4; i++) {
      at[i] = 0.5 - 0.5 * std::cos(pi * (2 * i + 1) / 8);
      difference[i] = 0.5 * std::erf((piece + at[i]) * GELU_END / PIECES / std::sqrt(2.0));
    }
    for (int order = 1; order < 4; order++)  // divided differences (Newton)
      for (int i = 3; i >= order; i--)
        difference[i] = (difference[i] - difference[i - 1]) / (at[i] - at[i - order]);
    double power[4] = {difference[3], 0, 0, 0};  // Newton's form to powers of f
    for (int i = 2; i >= 0; i--) {
      for (int j = 3; j > 0; j--) power[j] = power[j - 1] - at[i] * power[j];
      power[0] = difference[i] - at[i] * power[0];
    }
    for (int i = 0; i < 4; i++) coefficient[i][piece] = static_cast<float>(power[i]);
  }
}

template struct GeluTable<32>;
template struct GeluTable<16>;
const GeluTable<32> gelu_fine;
const GeluTable<16> gelu_coarse_table;

}  // namespace swinv2
