// AVX2 with products of int8 (AVX-VNNI).

#define SWINV2_SET avx2_vnni
#define HAS_BF16 0
#define HAS_VNNI 1

#include "avx2.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx2_vnni_kernels() {
  using namespace avx2_vnni;
  static constexpr Kernels table{"avx2_vnni", WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
