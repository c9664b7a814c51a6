// Vectors of 4 floats in NEON (ARMv8); the files that include this choose the set with HAS_BF16, HAS_INT8
// and HAS_INT8_BLOCKS.
#include <arm_neon.h>
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#include "kernels.h"
#include "unroll.h"

#define HAS_PERMUTED_GELU 0
#define HAS_STORE_BY_FOUR 0
#define HAS_TILES 0

namespace swinv2 {
namespace SWINV2_SET {
namespace {

using V = float32x4_t;
using I = int32x4_t;
constexpr int LANES = 4, COLUMNS = 4, ROWS = 6;  // 24 sums, 4 weights and 1 activation of 32 registers
constexpr int AT_ONCE = 2;
constexpr int OFFSET = 0;  // of int8 weights (kernels.h)

inline V load(const float* p) { return vld1q_f32(p); }
inline V load_halves(const float* low, const float* high) {
  return vcombine_f32(vld1_f32(low), vld1_f32(high));
}
inline void store(float* p, V x) { vst1q_f32(p, x); }
#if defined(_MSC_VER) && !defined(__clang__)
inline void prefetch(const unsigned char* p) { __prefetch(p); }
#else
inline void prefetch(const unsigned char* p) { __builtin_prefetch(p, 0, 2); }
#endif
inline V set(float x) { return vdupq_n_f32(x); }
inline V set_from(const unsigned char* p) { return vld1q_dup_f32(reinterpret_cast<const float*>(p)); }
inline V add(V a, V b) { return vaddq_f32(a, b); }
inline V sub(V a, V b) { return vsubq_f32(a, b); }
inline V mul(V a, V b) { return vmulq_f32(a, b); }
inline V div(V a, V b) { return vdivq_f32(a, b); }
inline V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
inline V max(V a, V b) { return vmaxq_f32(a, b); }
inline V abs(V a) { return vabsq_f32(a); }
inline V sqrt(V a) { return vsqrtq_f32(a); }
inline float square_root(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }
inline float sum(V a) { return vaddvq_f32(a); }
inline float largest(V a) { return vmaxvq_f32(a); }
inline V round(V a) { return vrndnq_f32(a); }
// y * 2^n for whole n of -126 to 127
inline V times_power(V y, V n) {
  return mul(y, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)));
}
inline V zero_where_less(V a, V limit, V value) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(a, limit)));
}

// out[i][j] = in[j][i]
inline void transpose(const V (&in)[4], V* out) {
  const float32x4x2_t a = vtrnq_f32(in[0], in[1]), b = vtrnq_f32(in[2], in[3]);
  out[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  out[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  out[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  out[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

#if HAS_BF16
inline V mac_bf16(V sum, V x, V w) {
  return vbfdotq_f32(sum, vreinterpretq_bf16_f32(x), vreinterpretq_bf16_f32(w));
}
inline V load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline void store_bf16(uint16_t* p, V x) { vst1_u16(p, vreinterpret_u16_bf16(vcvt_bf16_f32(x))); }
// 4 pairs (first, second)
inline void store_pairs(unsigned char* p, const uint16_t* first, const uint16_t* second) {
  const uint16x4x2_t pairs = {{vld1_u16(first), vld1_u16(second)}};
  vst2_u16(reinterpret_cast<uint16_t*>(p), pairs);
}
#endif

#if HAS_INT8
inline I mac_int8(I sum, I x, I w) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
}
#endif
inline I zero_int() { return vdupq_n_s32(0); }
inline I set_int(int x) { return vdupq_n_s32(x); }
inline I set_int_from(const unsigned char* p) { return vld1q_dup_s32(reinterpret_cast<const int32_t*>(p)); }
inline I load_int(const unsigned char* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
inline I add_int(I a, I b) { return vaddq_s32(a, b); }
inline I sub_int(I a, I b) { return vsubq_s32(a, b); }
inline int32_t sum_int(I a) { return vaddvq_s32(a); }
inline V to_float(I a) { return vcvtq_f32_s32(a); }
#if HAS_INT8_BLOCKS
// One instruction multiplies two columns with two rows over eight values, which are two steps of a panel:
// [column 0 row 0, column 0 row 1, column 1 row 0, column 1 row 1]. A step has the columns side by side, so two of
// them are zipped.
template <int PAIRS>
inline void add_blocks(I (&blocks)[PAIRS][2 * COLUMNS], int c, const int8x16_t (&rows)[PAIRS], I first,
                       I second) {
  const int8x16_t left = vreinterpretq_s8_s32(vzip1q_s32(first, second)),
                  right = vreinterpretq_s8_s32(vzip2q_s32(first, second));
  UNROLL for (int p = 0; p < PAIRS; p++) {
    blocks[p][2 * c] = vmmlaq_s32(blocks[p][2 * c], left, rows[p]);
    blocks[p][2 * c + 1] = vmmlaq_s32(blocks[p][2 * c + 1], right, rows[p]);
  }
}

// tile() of body.h in int8. An odd last row is taken twice, and one of the two results is left.
template <int R>
inline void tile_int8(I (&acc)[R][COLUMNS], const unsigned char* x, size_t stride, const unsigned char* w,
                      size_t w_stride, int steps, const unsigned char* ahead, size_t ahead_stride) {
  constexpr int PAIRS = (R + 1) / 2;
  I blocks[PAIRS][2 * COLUMNS];
  int8x16_t rows[PAIRS];
  UNROLL for (int p = 0; p < PAIRS; p++) UNROLL for (int c = 0; c < 2 * COLUMNS; c++) blocks[p][c] =
      vdupq_n_s32(0);
  const auto row = [&](int r, int k) {
    return reinterpret_cast<const int8_t*>(x + (r < R ? r : R - 1) * stride + 4 * static_cast<size_t>(k));
  };
  const auto weights = [&](int k, int c) {
    return load_int(w + static_cast<size_t>(k) * w_stride + c * LANES * 4);
  };
  int k = 0;
  for (; k + 2 <= steps; k += 2) {
    prefetch(ahead);
    prefetch(ahead + ahead_stride);
    ahead += 2 * ahead_stride;
    UNROLL for (int p = 0; p < PAIRS; p++) rows[p] =
        vcombine_s8(vld1_s8(row(2 * p, k)), vld1_s8(row(2 * p + 1, k)));
    UNROLL for (int c = 0; c < COLUMNS; c++) add_blocks(blocks, c, rows, weights(k, c), weights(k + 1, c));
  }
  if (k < steps) {  // one step is left: its other half is zeros, and nothing is read beyond
    const auto half = [&](int r) {
      return vreinterpret_s8_s32(
          vld1_lane_s32(reinterpret_cast<const int32_t*>(row(r, k)), vdup_n_s32(0), 0));
    };
    UNROLL for (int p = 0; p < PAIRS; p++) rows[p] = vcombine_s8(half(2 * p), half(2 * p + 1));
    UNROLL for (int c = 0; c < COLUMNS; c++) add_blocks(blocks, c, rows, weights(k, c), vdupq_n_s32(0));
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) {
    const I left = blocks[r / 2][2 * c], right = blocks[r / 2][2 * c + 1];
    acc[r][c] = add_int(acc[r][c], r % 2 ? vuzp2q_s32(left, right) : vuzp1q_s32(left, right));
  }
}
#endif
// 4 values of at most 127 rounded to int8; returns them
inline I store_int8(int8_t* p, V x) {
  const I whole = vcvtnq_s32_f32(x);
  const int16x4_t words = vqmovn_s32(whole);
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  vst1_lane_s32(reinterpret_cast<int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
  return whole;
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
