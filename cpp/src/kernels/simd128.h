// Vectors of 4 floats in WebAssembly (128-bit SIMD). There is no fused product and sum: they are two instructions.
#include <wasm_simd128.h>

#include "kernels.h"
#include "unroll.h"

#define HAS_PERMUTED_GELU 0
#define HAS_STORE_BY_FOUR 0
#define HAS_TILES 0
#define HAS_INT8 1
#define HAS_INT8_BLOCKS 1

namespace swinv2 {
namespace SWINV2_SET {
namespace {

using V = v128_t;
using I = v128_t;
constexpr int LANES = 4, COLUMNS = 2, ROWS = 5;  // 10 sums, 2 weights, 3 of 16 registers for what passes by
// V8 makes all sums of a round at its end, and keeps all that goes into them until then.
constexpr int AT_ONCE = 1;
constexpr int OFFSET = 0;  // of int8 weights (kernels.h)

inline V load(const float* p) { return wasm_v128_load(p); }
inline V load_halves(const float* low, const float* high) {
  return wasm_v128_load64_lane(high, wasm_v128_load64_zero(low), 1);
}
inline void store(float* p, V x) { wasm_v128_store(p, x); }
inline void prefetch(const unsigned char*) {}
inline V set(float x) { return wasm_f32x4_splat(x); }
inline V set_from(const unsigned char* p) { return wasm_v128_load32_splat(p); }
inline V add(V a, V b) { return wasm_f32x4_add(a, b); }
inline V sub(V a, V b) { return wasm_f32x4_sub(a, b); }
inline V mul(V a, V b) { return wasm_f32x4_mul(a, b); }
inline V div(V a, V b) { return wasm_f32x4_div(a, b); }
inline V fma(V a, V b, V c) { return wasm_f32x4_add(wasm_f32x4_mul(a, b), c); }
inline V max(V a, V b) { return wasm_f32x4_pmax(a, b); }  // one instruction, unlike what keeps NaNs
inline V abs(V a) { return wasm_f32x4_abs(a); }
inline V sqrt(V a) { return wasm_f32x4_sqrt(a); }
inline float square_root(float x) { return __builtin_sqrtf(x); }
inline V other_half(V a) { return wasm_i32x4_shuffle(a, a, 2, 3, 0, 1); }
inline V neighbours(V a) { return wasm_i32x4_shuffle(a, a, 1, 0, 3, 2); }
inline float sum(V a) {
  const V x = add(a, other_half(a));
  return wasm_f32x4_extract_lane(add(x, neighbours(x)), 0);
}
inline float largest(V a) {
  const V x = max(a, other_half(a));
  return wasm_f32x4_extract_lane(max(x, neighbours(x)), 0);
}
inline V round(V a) { return wasm_f32x4_nearest(a); }
// y * 2^n for whole n of -126 to 127
inline V times_power(V y, V n) {
  return mul(y, wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127)), 23));
}
inline V zero_where_less(V a, V limit, V value) { return wasm_v128_andnot(value, wasm_f32x4_lt(a, limit)); }

// out[i][j] = in[j][i]
inline void transpose(const V (&in)[4], V* out) {
  const V a = wasm_i32x4_shuffle(in[0], in[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(in[0], in[1], 2, 6, 3, 7),
          c = wasm_i32x4_shuffle(in[2], in[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(in[2], in[3], 2, 6, 3, 7);
  out[0] = wasm_i64x2_shuffle(a, c, 0, 2);
  out[1] = wasm_i64x2_shuffle(a, c, 1, 3);
  out[2] = wasm_i64x2_shuffle(b, d, 0, 2);
  out[3] = wasm_i64x2_shuffle(b, d, 1, 3);
}

inline I even_words(I a) { return wasm_i16x8_shr(wasm_i16x8_shl(a, 8), 8); }
inline I odd_words(I a) { return wasm_i16x8_shr(a, 8); }
inline I mac_words(I sum, I x, I w) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(x, w)); }
inline void store_int(unsigned char* p, I a) { wasm_v128_store(p, a); }
inline I zero_int() { return wasm_i32x4_splat(0); }
inline I set_int(int x) { return wasm_i32x4_splat(x); }
inline I set_int_from(const unsigned char* p) { return wasm_v128_load32_splat(p); }
inline I load_int(const unsigned char* p) { return wasm_v128_load(p); }
inline I add_int(I a, I b) { return wasm_i32x4_add(a, b); }
inline I sub_int(I a, I b) { return wasm_i32x4_sub(a, b); }
inline int32_t sum_int(I a) {
  const I x = add_int(a, other_half(a));
  return wasm_i32x4_extract_lane(add_int(x, neighbours(x)), 0);
}
inline V to_float(I a) { return wasm_f32x4_convert_i32x4(a); }
// 4 values of at most 127 rounded to int8; returns them
inline I store_int8(int8_t* p, V x) {
  const I whole = wasm_i32x4_trunc_sat_f32x4(round(x));
  const I words = wasm_i16x8_narrow_i32x4(whole, whole);
  wasm_v128_store32_lane(p, wasm_i8x16_narrow_i16x8(words, words), 0);
  return whole;
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
