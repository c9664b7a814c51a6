// Vectors of 8 floats in AVX2 with FMA; the files that include this choose the set with HAS_VNNI.
#include <immintrin.h>

#include "kernels.h"
#include "unroll.h"

#define HAS_PERMUTED_GELU 0
#define HAS_STORE_BY_FOUR 0
#define HAS_TILES 0
#define HAS_INT8 1
#define HAS_INT8_BLOCKS !HAS_VNNI

namespace swinv2 {
namespace SWINV2_SET {
namespace {

using V = __m256;
using I = __m256i;
constexpr int LANES = 8, COLUMNS = 2, ROWS = 6;  // 12 sums, 2 weights and 1 activation of 16 registers
constexpr int AT_ONCE = 2;
constexpr int OFFSET = HAS_VNNI ? 128 : 0;  // of int8 weights (kernels.h)

inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline V load_halves(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
inline void store(float* p, V x) { _mm256_storeu_ps(p, x); }
inline void prefetch(const unsigned char* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
inline V set(float x) { return _mm256_set1_ps(x); }
inline V set_from(const unsigned char* p) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(p)); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V div(V a, V b) { return _mm256_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm256_max_ps(a, b); }
inline V abs(V a) { return _mm256_andnot_ps(set(-0.0f), a); }
inline V sqrt(V a) { return _mm256_sqrt_ps(a); }
inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
inline float sum(V a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float largest(V a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// y * 2^n for whole n of -126 to 127
inline V times_power(V y, V n) {
  return mul(y, _mm256_castsi256_ps(
                    _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
inline V zero_where_less(V a, V limit, V value) {
  return _mm256_andnot_ps(_mm256_cmp_ps(a, limit, _CMP_LT_OQ), value);
}

// out[i][j] = in[j][i]
inline void transpose(const V (&in)[8], V* out) {
  V a[8], b[8];
  UNROLL for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(in[i], in[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
  }
  UNROLL for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    out[i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
    out[4 + i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
  }
}

#if HAS_VNNI
inline I mac_int8(I sum, I x, I w) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
#else
inline I even_words(I a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
inline I odd_words(I a) { return _mm256_srai_epi16(a, 8); }
#if defined(__GNUC__)
// GCC 12 would compute the products of many rows before it adds them, more than there are registers.
inline I mac_words(I sum, I x, I w) {
  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(x, w)));
  return sum;
}
#else
inline I mac_words(I sum, I x, I w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }
#endif
inline void store_int(unsigned char* p, I a) { _mm256_store_si256(reinterpret_cast<I*>(p), a); }
#endif
inline I zero_int() { return _mm256_setzero_si256(); }
inline I set_int(int x) { return _mm256_set1_epi32(x); }
inline I set_int_from(const unsigned char* p) { return _mm256_castps_si256(set_from(p)); }
inline I load_int(const unsigned char* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
inline I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
inline I sub_int(I a, I b) { return _mm256_sub_epi32(a, b); }
inline int32_t sum_int(I a) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
inline V to_float(I a) { return _mm256_cvtepi32_ps(a); }
// 8 values of at most 127 rounded to int8; returns them
inline I store_int8(int8_t* p, V x) {
  const I whole = _mm256_cvtps_epi32(x);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  return whole;
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
