// Vectors of 16 floats in AVX-512 (F, BW, DQ, VL); the files that include this choose the set with HAS_BF16,
// HAS_VNNI.
#include <immintrin.h>

#include "gelu.h"
#include "kernels.h"
#include "unroll.h"

#define HAS_PERMUTED_GELU 1
#define HAS_STORE_BY_FOUR 1
#define HAS_INT8 1
#define HAS_INT8_BLOCKS !HAS_VNNI
#ifndef HAS_TILES
#define HAS_TILES 0
#endif

namespace swinv2 {
namespace SWINV2_SET {
namespace {

using V = __m512;
using I = __m512i;
constexpr int LANES = 16, COLUMNS = 2, ROWS = 14;  // 28 sums, 2 weights and 1 activation of 32 registers
constexpr int AT_ONCE = 2;
constexpr int OFFSET = HAS_VNNI && !HAS_TILES ? 128 : 0;  // of int8 weights (kernels.h)

inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline V load_halves(const float* low, const float* high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
}
inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
inline void prefetch(const unsigned char* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
inline V set(float x) { return _mm512_set1_ps(x); }
inline V set_from(const unsigned char* p) {
  return _mm512_castsi512_ps(_mm512_set1_epi32(*reinterpret_cast<const int*>(p)));
}
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V div(V a, V b) { return _mm512_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm512_max_ps(a, b); }
inline V abs(V a) { return _mm512_abs_ps(a); }
inline V sqrt(V a) { return _mm512_sqrt_ps(a); }
inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
inline float sum(V a) { return _mm512_reduce_add_ps(a); }
inline float largest(V a) { return _mm512_reduce_max_ps(a); }

inline V round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V times_power(V y, V n) { return _mm512_scalef_ps(y, n); }  // y * 2^n, 0 where it would be too small
inline V zero_where_less(V a, V limit, V value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, limit, _CMP_NLT_UQ), value);
}

inline V gelu(V x) {
  const V t = abs(x);
  const V at = _mm512_min_ps(mul(t, set(32 / GELU_END)), set(31.999998f));
  const I piece = _mm512_cvttps_epi32(at);
  const V f = sub(at, _mm512_cvtepi32_ps(piece));
  const auto coefficient = [piece](int i) {
    const float* c = gelu_fine.coefficient[i];
    return _mm512_permutex2var_ps(load(c), piece, load(c + 16));
  };
  const V h = fma(fma(fma(coefficient(3), f, coefficient(2)), f, coefficient(1)), f, coefficient(0));
  return fma(t, h, mul(x, set(0.5f)));
}

inline V gelu_coarse(V x) {
  const V t = abs(x);
  const V at = _mm512_min_ps(mul(t, set(16 / GELU_END)), set(15.999999f));
  const I piece = _mm512_cvttps_epi32(at);
  const V f = sub(at, _mm512_cvtepi32_ps(piece));
  const auto coefficient = [piece](int i) {
    return _mm512_permutexvar_ps(piece, load(gelu_coarse_table.coefficient[i]));
  };
  const V h = fma(fma(fma(coefficient(3), f, coefficient(2)), f, coefficient(1)), f, coefficient(0));
  return fma(t, h, mul(x, set(0.5f)));
}

// out[i][j] = in[j][i]
inline void transpose(const V (&in)[16], V* out) {
  V a[16], b[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(in[i], in[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(in[i], in[i + 1]);
  }
  const auto low = [](V x, V y) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  const auto high = [](V x, V y) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  UNROLL for (int i = 0; i < 16; i += 4) {  // b[i + k]: columns 4 l + k of rows i to i + 3, l a lane
    b[i] = low(a[i], a[i + 2]);
    b[i + 1] = high(a[i], a[i + 2]);
    b[i + 2] = low(a[i + 1], a[i + 3]);
    b[i + 3] = high(a[i + 1], a[i + 3]);
  }
  UNROLL for (int k = 0; k < 4; k++) {
    const V even_low = _mm512_shuffle_f32x4(b[k], b[4 + k], 0x88),
            odd_low = _mm512_shuffle_f32x4(b[k], b[4 + k], 0xdd);
    const V even_high = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0x88);
    const V odd_high = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0xdd);
    out[k] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    out[4 + k] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    out[8 + k] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    out[12 + k] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

#if HAS_BF16
#if defined(_MSC_VER) && !defined(__clang__)  // where these types are those of integers, and are not cast
#define BITS(type, x) (x)
#else
#define BITS(type, x) (type)(x)
#endif
inline V mac_bf16(V sum, V x, V w) {
  return _mm512_dpbf16_ps(sum, BITS(__m512bh, _mm512_castps_si512(x)),
                          BITS(__m512bh, _mm512_castps_si512(w)));
}
inline void store_bf16(uint16_t* p, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), BITS(__m256i, _mm512_cvtneps_pbh(x)));
}
inline I widen(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline V load_bf16(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(widen(p), 16)); }
// 16 pairs (first, second)
inline void store_pairs(unsigned char* p, const uint16_t* first, const uint16_t* second) {
  _mm512_storeu_si512(p, _mm512_or_si512(widen(first), _mm512_slli_epi32(widen(second), 16)));
}
#endif

#if HAS_VNNI
#if defined(__GNUC__)
inline I mac_int8(I sum, I x,
                  I w) {  // GCC 12 copies and spills the sums around the intrinsic: a third of the speed
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
}
#else
inline I mac_int8(I sum, I x, I w) { return _mm512_dpbusd_epi32(sum, w, x); }
#endif
#else
inline I even_words(I a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
inline I odd_words(I a) { return _mm512_srai_epi16(a, 8); }
#if defined(__GNUC__)
// GCC 12 would compute the products of many rows before it adds them, more than there are registers.
inline I mac_words(I sum, I x, I w) {
  __asm__("vpaddd %1, %0, %0" : "+v"(sum) : "v"(_mm512_madd_epi16(x, w)));
  return sum;
}
#else
inline I mac_words(I sum, I x, I w) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)); }
#endif
inline void store_int(unsigned char* p, I a) { _mm512_store_si512(p, a); }
#endif
inline I zero_int() { return _mm512_setzero_si512(); }
inline I set_int(int x) { return _mm512_set1_epi32(x); }
inline I set_int_from(const unsigned char* p) { return _mm512_set1_epi32(*reinterpret_cast<const int*>(p)); }
inline I load_int(const unsigned char* p) { return _mm512_loadu_si512(p); }
inline I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
inline I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
inline int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
inline V to_float(I a) { return _mm512_cvtepi32_ps(a); }
// 64 values of at most 127 rounded to int8; their sums by four are added to sums.
inline I store_int8_by_four(int8_t* p, V a, V b, V c, V d, I sums) {
  const I low = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  const I high = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
  const I order =
      _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);  // packs go by 128 bits
  const I bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
  _mm512_storeu_si512(p, bytes);
#if HAS_VNNI
  return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
#else
  const I pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
// 16 values of at most 127 rounded to int8; returns them
inline I store_int8(int8_t* p, V x) {
  const I whole = _mm512_cvtps_epi32(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(whole));
  return whole;
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
