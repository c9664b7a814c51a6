// AVX-512 with products of bfloat16 and of int8 by tiles (AMX).

#define SWINV2_SET avx512_amx
#define HAS_BF16 1
#define HAS_VNNI 1
#define HAS_TILES 1
#define FP32_KERNELS avx512_kernels()

#include "avx512.h"

#include "amx.h"  // over avx512.h

#include "body.h"  // over what the ones before define

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* avx512_amx_kernels() {
  using namespace avx512_amx;
  static constexpr Kernels table{"avx512_amx", WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu,  encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
