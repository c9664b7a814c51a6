// Stored values as floats; those of 16 bits exactly, for every one of them is also a float.
#pragma once

#include <cstdint>
#include <cstring>

namespace swinv2 {

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// IEEE half: 1 sign, 5 exponent, 10 fraction.
inline float float_of_f16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7FFF;
  if (rest >= 0x7C00) return float_of_bits(sign | 0x7F800000 | rest << 13);  // infinite or no number
  if (rest < 0x0400) {                                                       // subnormal: rest * 2^-24
    const float value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  return float_of_bits(sign | ((rest << 13) + ((127u - 15u) << 23)));
}

// Rounded to nearest.
inline float float_of_f64(double value) { return static_cast<float>(value); }

// The upper half of a float.
inline float float_of_bf16(uint16_t upper) { return float_of_bits(static_cast<uint32_t>(upper) << 16); }

}  // namespace swinv2
