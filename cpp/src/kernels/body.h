// The fast twin of reference.cpp, written once over the vectors of an instruction set.
//
// This file has the products and what works on rows; attention.h has attention. A file per set (avx512.cpp, ...)
// defines, in the namespace it gives as SWINV2_SET, and includes both:
//   V, I             vectors of LANES floats and of LANES int32
//   COLUMNS, ROWS    vectors in a row of a panel, and rows that a tile of accumulators has at most
//   AT_ONCE          steps that a round of the loop over products takes, 1 or 2
//   load store set add sub mul div fma max abs sqrt sum largest exp gelu ...    see the files
//   HAS_BF16, HAS_INT8 and their products mac_bf16, mac_int8; HAS_INT8_BLOCKS: tile_int8 instead of the latter;
//   HAS_TILES: Tiles and TALL instead of both
//   FP32_KERNELS     the table that has the same in fp32, where that is another set's
// Everything has internal linkage or lies in that namespace: code for one set must never be merged into another's.

#include <math.h>  // lrintf; the templates of <cmath> would be merged between sets

namespace swinv2 {
namespace SWINV2_SET {
namespace {

template <int... R>
struct Rows {};  // 0, 1, ... as a pack: one compiled tile per height
template <int N, int... R>
struct Count : Count<N - 1, N - 1, R...> {};
template <int... R>
struct Count<0, R...> {
  using All = Rows<R...>;
};
using AllRows = Count<ROWS>::All;

constexpr int WIDTH = COLUMNS * LANES;  // columns of a panel
constexpr int STEP = WIDTH * 4;         // bytes of a panel that one step reads
constexpr int MAX_HEAD = 128;           // channels
#if !HAS_TILES
constexpr int TALL = ROWS;
struct Tiles {
  void shape(int, int) {}
};
#endif
constexpr float EPSILON = 1e-5f;
constexpr float NORM_FLOOR = 1e-12f;

constexpr float EXCLUDED = -1e30f;  // a logit that no softmax sees; not -inf, which could make a NaN

// value number i of a row that is fp32 or bf16
inline void store_as(Precision precision, unsigned char* row, int i, V value) {
#if HAS_BF16
  if (precision == Precision::bf16) return store_bf16(reinterpret_cast<uint16_t*>(row) + i, value);
#endif
  (void)precision;
  store(reinterpret_cast<float*>(row) + i, value);
}

// e^x for x <= 0, exactly 0 below -87. y(f): 2^f on [-0.5, 0.5], least squares of the relative error.
template <class Power>
inline V exp_by(V x, const Power& y) {
  const V power = max(mul(x, set(1.44269504f)), set(-125.0f));
  const V whole = round(power);
  return zero_where_less(x, set(-87.0f), times_power(y(sub(power, whole)), whole));
}
inline V exp(V x) {  // relative error below 3e-7 near 0
  return exp_by(x, [](V f) {
    V y = set(0.00132669704f);
    y = fma(y, f, set(0.00967545975f));
    y = fma(y, f, set(0.0555074262f));
    y = fma(y, f, set(0.240221218f));
    y = fma(y, f, set(0.693146949f));
    return fma(y, f, set(1.00000007f));
  });
}
inline V exp_coarse(V x) {  // below 8e-5, for what is rounded to bfloat16 (4e-3)
  return exp_by(x, [](V f) {
    V y = set(0.0551716467f);
    y = fma(y, f, set(0.242611142f));
    y = fma(y, f, set(0.693260991f));
    return fma(y, f, set(0.999928072f));
  });
}

#if !HAS_PERMUTED_GELU
// x / 2 + |x| erf(|x| / sqrt 2) / 2 with erf of Abramowitz and Stegun (7.1.26), error below 1.5e-7.
inline V gelu(V x) {
  const V size = abs(x), z = mul(size, set(0.70710678f));
  const V t = div(set(1.0f), fma(z, set(0.3275911f), set(1.0f)));
  V y = set(1.061405429f);
  y = fma(y, t, set(-1.453152027f));
  y = fma(y, t, set(1.421413741f));
  y = fma(y, t, set(-0.284496736f));
  y = fma(y, t, set(0.254829592f));
  const V half_erf = sub(set(0.5f), mul(mul(mul(y, t), exp(sub(set(0.0f), mul(z, z)))), set(0.5f)));
  return fma(size, half_erf, mul(x, set(0.5f)));
}
inline V gelu_coarse(V x) { return gelu(x); }
#endif

// ---- products: a tile of R rows by one panel in registers -------------------------------------------------

struct Fp32 {
  using A = V;
  static constexpr int VALUES = 1;  // of a step
  static A start(const Operand&, int) { return set(0.0f); }
  static A mac(A sum, const unsigned char* x, A w) { return fma(set_from(x), w, sum); }
  static A weights(const unsigned char* w) { return load(reinterpret_cast<const float*>(w)); }
};
#if HAS_BF16
struct Bf16 {
  using A = V;
  static constexpr int VALUES = 2;
  static A start(const Operand&, int) { return set(0.0f); }
  static A mac(A sum, const unsigned char* x, A w) { return mac_bf16(sum, set_from(x), w); }
  static A weights(const unsigned char* w) { return load(reinterpret_cast<const float*>(w)); }
  static A sums(const unsigned char* from) { return load(reinterpret_cast<const float*>(from)); }
};
#endif
#if HAS_INT8
struct Int8 {
  using A = I;
  static constexpr int VALUES = 4;
  static A start(const Operand& x, int row) { return OFFSET ? set_int(-OFFSET * x.sum[row]) : zero_int(); }
  static A mac(A sum, const unsigned char* x, A w) { return mac_int8(sum, set_int_from(x), w); }
  static A weights(const unsigned char* w) { return load_int(w); }
  static A sums(const unsigned char* from) { return load_int(from); }
};
#endif

// What to fetch into the second cache while a tile is computed: the panel after the one that is at work.
// Without it the first tile of every panel waits for the memory, since the weights of a model are larger than
// the caches.
struct Ahead {
  const unsigned char* at = nullptr;
  size_t stride = 0;  // bytes from step to step
};

// acc[r][c] += sum over steps of x[r] and the panel w. w_stride: bytes from step to step, STEP where packed.
template <class P, int R>
inline void tile(typename P::A (&acc)[R][COLUMNS], const unsigned char* x, size_t stride,
                 const unsigned char* w, size_t w_stride, int steps, Ahead ahead) {
#if HAS_INT8_BLOCKS
  if constexpr (P::VALUES == 4)
    return tile_int8<R>(acc, x, stride, w, w_stride, steps, ahead.at, ahead.stride);
#endif
  // Five pointers and the stride reach 15 rows: rows 3 i, 3 i + 1 and 3 i + 2 are at base, base + s and base
  // + 2 s.
  const unsigned char* base[(R + 2) / 3];
  UNROLL for (int i = 0; i < (R + 2) / 3; i++) base[i] = x + 3 * i * stride;
  const auto step = [&](int k) {  // the one after the next k steps
    typename P::A b[COLUMNS];
    UNROLL for (int c = 0; c < COLUMNS; c++) b[c] = P::weights(w + k * w_stride + c * LANES * 4);
    UNROLL for (int r = 0; r < R; r++) {
      const unsigned char* at = base[r / 3] + (r % 3) * stride + 4 * k;
      UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] = P::mac(acc[r][c], at, b[c]);
    }
  };
  int k = 0;
  for (; k + AT_ONCE <= steps; k += AT_ONCE) {
    prefetch(ahead.at);
    if constexpr (AT_ONCE > 1) prefetch(ahead.at + ahead.stride);
    ahead.at += AT_ONCE * ahead.stride;
    step(0);
    if constexpr (AT_ONCE > 1) step(1);
    w += AT_ONCE * w_stride;
    UNROLL for (int i = 0; i < (R + 2) / 3; i++) base[i] += 4 * AT_ONCE;
  }
  if (k < steps) step(0);
}

// How the sums of a vector of columns become values: scaled back where they are int8, + bias.
template <class P>
struct Finish {
  V bias, scale;
  Finish(const Packed& w, int column) : bias(load(w.bias + column)) {
    if constexpr (P::VALUES == 4) scale = load(w.scale + column);
  }
  V operator()(typename P::A sum, [[maybe_unused]] const Operand& x, [[maybe_unused]] int row) const {
    if constexpr (P::VALUES < 4) return add(sum, bias);
    else return fma(to_float(sum), mul(scale, set(x.scale[row])), bias);
  }
};

// out[r, columns of the panel] = the finished tile
template <class P, int R>
void linear_tile(float* out, size_t out_stride, const Operand& x, const Packed& w, int panel, Ahead ahead) {
  typename P::A acc[R][COLUMNS];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] = P::start(x, r);
  tile<P, R>(acc, x.data, x.stride, w.data + static_cast<size_t>(panel) * w.steps * STEP, STEP, w.steps,
             ahead);
  UNROLL for (int c = 0; c < COLUMNS; c++) {
    const Finish<P> finish(w, panel * WIDTH + c * LANES);
    UNROLL for (int r = 0; r < R; r++) store(out + r * out_stride + c * LANES, finish(acc[r][c], x, r));
  }
}

using LinearTile = void (*)(float*, size_t, const Operand&, const Packed&, int, Ahead);

template <class P, int... R>
LinearTile tile_of(int rows, Rows<R...>) {
  constexpr LinearTile tiles[] = {linear_tile<P, R + 1>...};
  return tiles[rows - 1];
}

LinearTile choose_tile([[maybe_unused]] Precision precision, [[maybe_unused]] int rows) {
#if HAS_BF16 && !HAS_TILES
  if (precision == Precision::bf16) return tile_of<Bf16>(rows, AllRows{});
#endif
#if HAS_INT8 && !HAS_TILES
  if (precision == Precision::int8) return tile_of<Int8>(rows, AllRows{});
#endif
#ifdef FP32_KERNELS
  return nullptr;
#else
  return tile_of<Fp32>(rows, AllRows{});
#endif
}

// Whether products of a precision are those of Tiles.
constexpr bool is_tall(Precision precision) { return HAS_TILES && precision != Precision::fp32; }

// Rows in tiles of nearly the same height: 64 rows are 13, 13, 13, 13 and 12 of at most 14. Tall ones have the
// same height, for which tiles are shaped once, and compute some rows twice.
struct Split {
  int tiles, rows, tallest;
  Split(int rows, Precision precision) : rows(rows) {
    const int most = is_tall(precision) ? TALL : ROWS;
    tiles = (rows + most - 1) / most;
    tallest = is_tall(precision) ? (rows + tiles - 1) / tiles : 0;
  }
  int start(int tile) const { return static_cast<int>(static_cast<int64_t>(rows) * tile / tiles); }
  int height(int tile) const { return tallest ? tallest : start(tile + 1) - start(tile); }
};

// The tiles of a panel share out the lines of the next: all at once would wait for one another.
Ahead next_panel(const Packed& w, int panel, int last, const Split& split, int tile) {
  const unsigned char* next = w.data + static_cast<size_t>(panel + (panel + 1 < last)) * w.steps * STEP;
  const size_t stride = static_cast<size_t>((STEP + split.tiles - 1) / split.tiles);
  return {next + static_cast<size_t>(tile) * w.steps * stride, stride};
}

#if HAS_TILES
// The product by the tiles of the processor; store(row, column, value) takes vectors of it. While one tile is
// multiplied, the values of the one before are made of its sums.
template <class P, class Store>
void multiply_tall(const Operand& x, int rows, const Packed& w, int first, int last, const Store& store) {
  alignas(64) unsigned char sums[2][TALL * STEP];
  const Split split(rows, w.precision);
  Tiles tiles;
  tiles.shape(split.tallest, w.steps);
  const int count = (last - first) * split.tiles;
  for (int i = 0; i <= count; i++) {
    if (i < count) {
      const int panel = first + i / split.tiles, t = i % split.tiles;
      const Operand from = x.from(split.start(t));
      const Ahead ahead = next_panel(w, panel, last, split, t);
      tiles.multiply<P::VALUES>(sums[i % 2], STEP, from.data, from.stride,
                                w.data + static_cast<size_t>(panel) * w.steps * STEP, STEP, w.steps, ahead.at,
                                ahead.stride);
    }
    if (i == 0) continue;
    const int column = (first + (i - 1) / split.tiles) * WIDTH, start = split.start((i - 1) % split.tiles);
    const Finish<P> left(w, column), right(w, column + LANES);
    for (int r = 0; r < split.tallest; r++) {
      const unsigned char* at = sums[(i - 1) % 2] + r * STEP;
      store(start + r, column, left(P::sums(at), x, start + r));
      store(start + r, column + LANES, right(P::sums(at + LANES * 4), x, start + r));
    }
  }
}

template <class Store>
void multiply_tall(const Operand& x, int rows, const Packed& w, int first, int last, const Store& store) {
  if (w.precision == Precision::bf16) multiply_tall<Bf16>(x, rows, w, first, last, store);
  else multiply_tall<Int8>(x, rows, w, first, last, store);
}
#endif

// change(value): what becomes of the values of a product before they are stored.
template <class Change>
void product(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last,
             const Change& change) {
  const Split split(rows, w.precision);
#if HAS_TILES
  if (split.tallest)
    return multiply_tall(x, rows, w, first, last, [&](int row, int column, V value) {
      store_as(out.precision, out.data + row * out.stride, column, change(value));
    });
#endif
  alignas(64) float values[ROWS * WIDTH];
  for (int panel = first; panel < last; panel++)  // a panel stays in the cache while all rows pass by
    for (int t = 0; t < split.tiles; t++) {
      const int row = split.start(t), height = split.height(t);
      choose_tile(w.precision, height)(values, WIDTH, x.from(row), w, panel,
                                       next_panel(w, panel, last, split, t));
      for (int r = 0; r < height; r++)
        UNROLL for (int c = 0; c < COLUMNS; c++)
            store_as(out.precision, out.data + (row + r) * out.stride, panel * WIDTH + c * LANES,
                     change(load(values + r * WIDTH + c * LANES)));
    }
}

void linear(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last) {
#ifdef FP32_KERNELS
  if (w.precision == Precision::fp32) return FP32_KERNELS->linear(out, x, rows, w, first, last);
#endif
  const Split split(rows, w.precision);
  if (split.tallest || out.precision != Precision::fp32)
    return product(out, x, rows, w, first, last, [](V value) { return value; });
  for (int panel = first; panel < last; panel++)  // straight to where they belong
    for (int t = 0; t < split.tiles; t++) {
      const Operand to = out.from(split.start(t));
      choose_tile(w.precision, split.height(t))(reinterpret_cast<float*>(to.data) + panel * WIDTH,
                                                to.stride / sizeof(float), x.from(split.start(t)), w, panel,
                                                next_panel(w, panel, last, split, t));
    }
}

void linear_gelu(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last) {
  if (w.precision != Precision::fp32)
    return product(out, x, rows, w, first, last, [](V value) { return gelu_coarse(value); });
#ifdef FP32_KERNELS
  FP32_KERNELS->linear_gelu(out, x, rows, w, first, last);
#else
  product(out, x, rows, w, first, last, [](V value) { return gelu(value); });
#endif
}

// ---- rows -------------------------------------------------------------------------------------------------

void encode(const Operand& out, int row, const float* x, int cols, int padded) {
  unsigned char* data = out.data + row * out.stride;
  int i = 0;
  if (out.precision == Precision::fp32) {
    float* to = reinterpret_cast<float*>(data);
    for (; i + LANES <= cols; i += LANES) store(to + i, load(x + i));
    for (; i < padded; i++) to[i] = i < cols ? x[i] : 0;
    return;
  }
  if (out.precision == Precision::bf16) {
    uint16_t* to = reinterpret_cast<uint16_t*>(data);
#if HAS_BF16
    for (; i + LANES <= cols; i += LANES) store_bf16(to + i, load(x + i));
#endif
    for (; i < padded; i++) to[i] = i < cols ? to_bf16(x[i]) : uint16_t{0};
    return;
  }
  V high = set(0.0f), higher = set(0.0f);  // two, or every maximum waits for the one before
  for (i = 0; i + 2 * LANES <= cols; i += 2 * LANES) {
    high = max(high, abs(load(x + i)));
    higher = max(higher, abs(load(x + i + LANES)));
  }
  for (; i + LANES <= cols; i += LANES) high = max(high, abs(load(x + i)));
  high = max(high, higher);
  float top = largest(high);
  for (; i < cols; i++) top = x[i] > top ? x[i] : -x[i] > top ? -x[i] : top;
  const float inverse = top > 0 ? 127 / top : 0;
  int8_t* to = reinterpret_cast<int8_t*>(data);
  int32_t total = 0;
  i = 0;
#if HAS_INT8
  I sums = zero_int();
#if HAS_STORE_BY_FOUR
  const V factor = set(inverse);
  for (; i + 4 * LANES <= cols; i += 4 * LANES)
    sums =
        store_int8_by_four(to + i, mul(load(x + i), factor), mul(load(x + i + LANES), factor),
                           mul(load(x + i + 2 * LANES), factor), mul(load(x + i + 3 * LANES), factor), sums);
#endif
  for (; i + LANES <= cols; i += LANES)
    sums = add_int(sums, store_int8(to + i, mul(load(x + i), set(inverse))));
  total = sum_int(sums);
#endif
  for (; i < padded; i++) {
    to[i] = i < cols ? static_cast<int8_t>(lrintf(x[i] * inverse)) : int8_t{0};
    total += to[i];
  }
  out.scale[row] = top / 127;
  out.sum[row] = total;
}

// Mean and 1 / deviation of a row, in two passes: the squares of large means would cancel.
inline void moments(const float* x, int cols, V& mean, V& inverse) {
  V a = set(0.0f), b = set(0.0f);
  int i = 0;
  for (; i + 2 * LANES <= cols; i += 2 * LANES) {
    a = add(a, load(x + i));
    b = add(b, load(x + i + LANES));
  }
  for (; i < cols; i += LANES) a = add(a, load(x + i));
  mean = set(sum(add(a, b)) / static_cast<float>(cols));
  a = b = set(0.0f);
  for (i = 0; i + 2 * LANES <= cols; i += 2 * LANES) {
    const V y = sub(load(x + i), mean), z = sub(load(x + i + LANES), mean);
    a = fma(y, y, a);
    b = fma(z, z, b);
  }
  for (; i < cols; i += LANES) {
    const V y = sub(load(x + i), mean);
    a = fma(y, y, a);
  }
  inverse = set(1 / square_root(sum(add(a, b)) / static_cast<float>(cols) + EPSILON));
}

void norm(float* y, const float* x, int cols, const float* gain, const float* bias) {
  V mean, inverse;
  moments(x, cols, mean, inverse);
  for (int i = 0; i < cols; i += LANES)
    store(y + i, fma(mul(sub(load(x + i), mean), inverse), load(gain + i), load(bias + i)));
}

void add_norm(float* x, const float* y, int cols, const float* gain, const float* bias) {
  V mean, inverse;
  moments(y, cols, mean, inverse);
  for (int i = 0; i < cols; i += LANES) {
    const V branch = fma(mul(sub(load(y + i), mean), inverse), load(gain + i), load(bias + i));
    store(x + i, add(load(x + i), branch));
  }
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
