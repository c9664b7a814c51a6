// NEON with products of bfloat16 and of int8, and with products of int8 matrices (I8MM; all of it is ARMv8.6).

#define SWINV2_SET neon_i8mm
#define HAS_BF16 1
#define HAS_INT8 1
#define HAS_INT8_BLOCKS 1

#include "neon.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* neon_i8mm_kernels() {
  using namespace neon_i8mm;
  static constexpr Kernels table{"neon_i8mm", WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
