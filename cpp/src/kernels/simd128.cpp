// The 128-bit vectors of WebAssembly; int8 by products of 16 bits.

#define SWINV2_SET simd128
#define HAS_BF16 0

#include "simd128.h"

#include "words.h"  // over simd128.h

#include "body.h"  // over what the ones before define

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* simd128_kernels() {
  using namespace simd128;
  static constexpr Kernels table{"simd128",   WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
