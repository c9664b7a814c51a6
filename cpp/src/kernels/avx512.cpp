// AVX-512 as in the first processors that had it; int8 by products of 16 bits.

#define SWINV2_SET avx512
#define HAS_BF16 0
#define HAS_VNNI 0

#include "avx512.h"

#include "words.h"  // over avx512.h

#include "body.h"  // over what the ones before define

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx512_kernels() {
  using namespace avx512;
  static constexpr Kernels table{"avx512",    WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
