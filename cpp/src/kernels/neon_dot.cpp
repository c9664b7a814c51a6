// NEON with products of int8 (the dot product extension).

#define SWINV2_SET neon_dot
#define HAS_BF16 0
#define HAS_INT8 1
#define HAS_INT8_BLOCKS 0

#include "neon.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* neon_dot_kernels() {
  using namespace neon_dot;
  static constexpr Kernels table{"neon_dot",  WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
