// AVX2 with FMA.

#define SWINV2_SET avx2
#define HAS_BF16 0
#define HAS_INT8 0

#include "avx2.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx2_kernels() {
  using namespace avx2;
  static constexpr Kernels table{"avx2",      WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
