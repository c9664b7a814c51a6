// Products by tiles (AMX), over avx512.h: registers of 16 rows by 64 bytes, and one instruction that multiplies two
// of them. A panel of body.h lies in memory as such an instruction wants it: a step is a row of two tiles.
//
// The sums of up to 32 rows by a panel are four tiles, beside two for either side. They go to memory, and what
// follows a product reads them there.
#include <immintrin.h>

namespace swinv2 {
namespace SWINV2_SET {
namespace {

constexpr int TALL = 32;  // rows of a product
constexpr int TILE = 16;  // rows of a tile, and its most steps

// GCC 12 does not know what instructions of tiles read: here all that was written is in memory.
inline void settle(const void* p) { __asm__ volatile("" : : "r"(p) : "memory"); }

// The shape of the tiles, and products by them.
class Tiles {
 public:
  Tiles() = default;
  ~Tiles() {
    if (rows_) _tile_release();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // For products of so many rows and steps, from here on.
  void shape(int rows, int steps) {
    int chunk = steps < TILE ? steps : TILE;
    while (steps % chunk) chunk--;
    if (rows == rows_ && chunk == chunk_) return;
    rows_ = rows;
    chunk_ = chunk;
    const int low = rows < TILE ? rows : TILE, high = rows > TILE ? rows - TILE : 1;
    Shape shape;
    const auto set = [&](int tile, int tile_rows, int tile_steps) {
      shape.rows[tile] = static_cast<uint8_t>(tile_rows);
      shape.bytes[tile] = static_cast<uint16_t>(4 * tile_steps);
    };
    for (int c = 0; c < 2; c++) {
      set(c, low, LANES);  // sums
      set(2 + c, high, LANES);
      set(6 + c, chunk, LANES);  // weights
    }
    set(4, low, chunk);  // rows
    set(5, high, chunk);
    settle(&shape);
    _tile_loadconfig(&shape);
  }

  // sums[r][c] = sum over steps of x[r] and the panel w; strides in bytes. VALUES: of a step.
  template <int VALUES>
  void multiply(void* sums, size_t sums_stride, const unsigned char* x, size_t stride, const unsigned char* w,
                size_t w_stride, int steps, const unsigned char* ahead, size_t ahead_stride) const {
    const bool tall = rows_ > TILE;
    settle(x);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < steps; k += chunk_) {
      _tile_loadd(6, w, w_stride);
      _tile_loadd(7, w + LANES * 4, w_stride);
      _tile_loadd(4, x, stride);
      if constexpr (VALUES == 4) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
      } else {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (tall) {
        _tile_loadd(5, x + TILE * stride, stride);
        if constexpr (VALUES == 4) {
          _tile_dpbssd(2, 5, 6);
          _tile_dpbssd(3, 5, 7);
        } else {
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
      if (ahead_stride)
        for (int i = 0; i < chunk_; i++, ahead += ahead_stride) prefetch(ahead);
      w += static_cast<size_t>(chunk_) * w_stride;
      x += static_cast<size_t>(chunk_) * 4;
    }
    unsigned char* to = static_cast<unsigned char*>(sums);
    _tile_stored(0, to, sums_stride);
    _tile_stored(1, to + LANES * 4, sums_stride);
    if (tall) {
      _tile_stored(2, to + TILE * sums_stride, sums_stride);
      _tile_stored(3, to + TILE * sums_stride + LANES * 4, sums_stride);
    }
  }

 private:
  struct alignas(64) Shape {  // as the processor reads it
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};  // of a row of every tile
    uint8_t rows[16] = {};
  };
  int rows_ = 0, chunk_ = 0;  // steps of an instruction
};

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
