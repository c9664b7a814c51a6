// Products of int8 where no instruction adds them by fours (VNNI): values are widened to 16 bits, which one that all of
// these processors have multiplies and adds in pairs, without loss. Of the four values of a step the pairs are the even
// and the odd ones, since that is what shifts make of them; avx2.h and avx512.h have the vectors.
//
// The rows of a tile are widened once for all columns, some steps at a time; weights once for all rows.

namespace swinv2 {
namespace SWINV2_SET {
namespace {

constexpr int WIDE = 64;  // steps of a row that are kept widened: those of a tile stay in the first cache

inline I mac_int8(I sum, I x, I w) {  // a step of a single row
  return mac_words(mac_words(sum, even_words(x), even_words(w)), odd_words(x), odd_words(w));
}

// tile() of body.h in int8. Rows are read in whole vectors, which their strides have room for.
template <int R>
inline void tile_int8(I (&acc)[R][COLUMNS], const unsigned char* x, size_t stride, const unsigned char* w,
                      size_t w_stride, int steps, const unsigned char* ahead, size_t ahead_stride) {
  alignas(64) unsigned char even[R][WIDE * 4], odd[R][WIDE * 4];
  for (int first = 0; first < steps; first += WIDE) {
    const int count = steps - first < WIDE ? steps - first : WIDE;
    for (int r = 0; r < R; r++)
      for (int k = 0; k < count; k += LANES) {
        const I values = load_int(x + r * stride + static_cast<size_t>(first + k) * 4);
        store_int(even[r] + k * 4, even_words(values));
        store_int(odd[r] + k * 4, odd_words(values));
      }
    for (int k = 0; k < count; k++, w += w_stride, ahead += ahead_stride) {
      prefetch(ahead);
      I b[COLUMNS];
      UNROLL for (int c = 0; c < COLUMNS; c++) b[c] = even_words(load_int(w + c * LANES * 4));
      UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] =
          mac_words(acc[r][c], set_int_from(even[r] + k * 4), b[c]);
      UNROLL for (int c = 0; c < COLUMNS; c++) b[c] = odd_words(load_int(w + c * LANES * 4));
      UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] =
          mac_words(acc[r][c], set_int_from(odd[r] + k * 4), b[c]);
    }
  }
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
