// AVX2 with FMA; int8 by products of 16 bits.

#define SWINV2_SET avx2
#define HAS_BF16 0
#define HAS_VNNI 0

#include "avx2.h"

#include "words.h"  // over avx2.h

#include "body.h"  // over what the ones before define

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx2_kernels() {
  using namespace avx2;
  static constexpr Kernels table{"avx2",      WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
