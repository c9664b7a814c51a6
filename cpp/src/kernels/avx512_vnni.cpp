// AVX-512 with products of int8 (VNNI).

#define SWINV2_SET avx512_vnni
#define HAS_BF16 0
#define HAS_VNNI 1
#define FP32_KERNELS avx512_kernels()

#include "avx512.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx512_vnni_kernels() {
  using namespace avx512_vnni;
  static constexpr Kernels table{"avx512_vnni", WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu,   encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
