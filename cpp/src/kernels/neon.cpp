// NEON, which every 64-bit ARM processor has.

#define SWINV2_SET neon
#define HAS_BF16 0
#define HAS_INT8 0
#define HAS_INT8_BLOCKS 0

#include "neon.h"

#include "body.h"  // over what the one before defines

#include "attention.h"  // over body.h

namespace swinv2 {

const Kernels* neon_kernels() {
  using namespace neon;
  static constexpr Kernels table{"neon",      WIDTH,  OFFSET, HAS_BF16, HAS_INT8, linear,
                                 linear_gelu, encode, norm,   add_norm, attention};
  return &table;
}

}  // namespace swinv2
