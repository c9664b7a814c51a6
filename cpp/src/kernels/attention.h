// Window attention over the vectors of an instruction set: one head of one window, scores and values as products of
// the tiles of body.h. What is said there holds here.

namespace swinv2 {
namespace SWINV2_SET {
namespace {

constexpr int SHORT = 64 / LANES;  // vectors of a row of logits that is kept in registers

// What attention() keeps of one head; all of it stays in the first cache for windows up to 16 x 16.
struct Scratch {
  unsigned char *keys, *values;
  float *logits, *lengths, *bias, *sums;

  Scratch(unsigned char* memory, int padded, int head_dim) {
    keys = memory;
    values = keys + static_cast<size_t>(padded) * head_dim * 4;
    logits = reinterpret_cast<float*>(values + static_cast<size_t>(padded) * round_up(head_dim, WIDTH) * 2);
    lengths = logits + static_cast<size_t>(TALL) * padded;
    bias = lengths + padded;
    sums = bias + padded + 2 * LANES;
  }
};

// Rows or panels in memory: where they start, and bytes from one to the next.
struct Side {
  const unsigned char* data;
  size_t stride;
  size_t panel;  // bytes from panel to panel
};

// How the two products of attention take their sides, in float32: values as they lie in the qkv rows.
struct AttendFp32 : Fp32 {
  static constexpr Precision PRECISION = Precision::fp32;
  static V channels(const unsigned char* row, int c) { return load(reinterpret_cast<const float*>(row) + c); }
  static V add_squares(V sum, V step) { return fma(step, step, sum); }
  static V weight(V x) { return exp(x); }
  static void store_weight(float* logits, int j, V weight) { store(logits + j, weight); }
  static Side values(const Attention& a, const Scratch&, int, int) {
    return {a.qkv + 2 * static_cast<size_t>(a.dim) * 4, a.stride, STEP};
  }
};

#if HAS_BF16
// The same in bfloat16: values in pairs of tokens.
struct AttendBf16 : Bf16 {
  static constexpr Precision PRECISION = Precision::bf16;
  static V channels(const unsigned char* row, int c) {
    return load_bf16(reinterpret_cast<const uint16_t*>(row) + c);
  }
  static V add_squares(V sum, V step) { return mac_bf16(sum, step, step); }
  static V weight(V x) { return exp_coarse(x); }
  static void store_weight(float* logits, int j, V weight) {  // behind what is still to be read
    store_bf16(reinterpret_cast<uint16_t*>(logits) + j, weight);
  }
  static Side values(const Attention& a, const Scratch& s, int tokens, int steps) {
    static const uint16_t zeros[MAX_HEAD] = {};
    const size_t panel = static_cast<size_t>(steps) * STEP;
    const auto token = [&](int j) {
      return j < tokens ? reinterpret_cast<const uint16_t*>(a.qkv + j * a.stride) + 2 * a.dim : zeros;
    };
    for (int k = 0; k < steps; k++)
      for (int c = 0; c < a.head_dim; c += LANES)
        store_pairs(s.values + c / WIDTH * panel + k * STEP + c % WIDTH * 4, token(2 * k) + c,
                    token(2 * k + 1) + c);
    return {s.values, STEP, panel};
  }
};
#endif

// Keys as panels [keys / WIDTH][steps][WIDTH], zeros beyond the window, and 1 / the length of every key.
template <class P>
void pack_keys(const Attention& a, int tokens, int padded, const Scratch& s) {
  const int steps = a.head_dim / P::VALUES;
  for (int j = 0; j < padded; j += LANES) {
    V square = set(0.0f);
    unsigned char* to = s.keys + (static_cast<size_t>(j / WIDTH) * steps * WIDTH + j % WIDTH) * 4;
    for (int k = 0; k < steps; k += LANES) {  // the last may reach beyond the head, into values
      V key[LANES], step[LANES];
      UNROLL for (int r = 0; r < LANES; r++) key[r] =
          j + r < tokens ? load(reinterpret_cast<const float*>(a.qkv + (j + r) * a.stride +
                                                               static_cast<size_t>(a.dim) * 4 / P::VALUES) +
                                k)
                         : set(0.0f);
      transpose(key, step);
      for (int i = 0; i < LANES && k + i < steps; i++) {
        square = P::add_squares(square, step[i]);
        store(reinterpret_cast<float*>(to + static_cast<size_t>(k + i) * STEP), step[i]);
      }
    }
    store(s.lengths + j, div(set(1.0f), max(sqrt(square), set(NORM_FLOOR))));
  }
}

// The position bias of one query, key by key. In the table the keys of a window's row lie in order, rows
// backwards.
struct WholeVectors {  // windows of LANES, 2 LANES ... columns
  const float* table;
  int cols, columns, c;
  WholeVectors(const Attention& a, const Scratch&, const float* start, int, int)
      : table(start), cols(a.cols), columns(2 * a.cols - 1), c(0) {}
  static bool fits(const Attention& a) { return a.cols % LANES == 0 && a.rows * a.cols % WIDTH == 0; }
  V next() {
    const V value = load(table + c);
    if ((c += LANES) == cols) c = 0, table -= columns;
    return value;
  }
};

struct TwoHalves {  // of LANES / 2 columns
  const float* table;
  int columns;
  TwoHalves(const Attention& a, const Scratch&, const float* start, int, int)
      : table(start), columns(2 * a.cols - 1) {}
  static bool fits(const Attention& a) { return 2 * a.cols == LANES && a.rows * a.cols % WIDTH == 0; }
  V next() {
    const V value = load_halves(table, table - columns);
    table -= 2 * columns;
    return value;
  }
};

struct Staged {  // any window: written out first, rows over one another's tails
  const float* at;
  Staged(const Attention& a, const Scratch& s, const float* start, int tokens, int padded) : at(s.bias) {
    for (int t = 0; t < a.rows; t++)
      for (int c = 0; c < a.cols; c += LANES)
        store(s.bias + t * a.cols + c, load(start - t * (2 * a.cols - 1) + c));
    for (int j = tokens; j < padded; j++) s.bias[j] = EXCLUDED;
  }
  V next() {
    const V value = load(at);
    at += LANES;
    return value;
  }
};

// out[i] = the sum of the lanes of x[i], for many vectors at a time: one by one, every sum waits for itself.
// out has room for whole vectors.
inline void sums_of(const V* x, int count, float* out) {
  for (int i = 0; i < count; i += LANES) {
    V rows[LANES], columns[LANES];
    UNROLL for (int r = 0; r < LANES; r++) rows[r] = i + r < count ? x[i + r] : set(0.0f);
    transpose(rows, columns);
    UNROLL for (int width = LANES / 2; width > 0; width /= 2) UNROLL for (int r = 0; r < width; r++)
        columns[r] = add(columns[r], columns[r + width]);
    store(out + i, columns[0]);
  }
}

// logits[i, j] = logits[i, j] * scale / |q[i]| / |k[j]| + bias + mask, then their exponentials as weights of the
// values, in place; 1 / the sum of every row goes to sums.
template <class P, class Bias>
void soften(const Attention& a, const Scratch& s, int query, int height, int tokens, int padded) {
  V partial[TALL];
  alignas(64) float scales[TALL + LANES];
  for (int r = 0; r < height; r++) {
    partial[r] = set(0.0f);
    for (int c = 0; c < a.head_dim; c += LANES) {
      const V q = P::channels(a.qkv + (query + r) * a.stride, c);
      partial[r] = fma(q, q, partial[r]);
    }
  }
  sums_of(partial, height, scales);
  for (int r = 0; r < height; r += LANES)
    store(scales + r, div(set(a.scale), max(sqrt(load(scales + r)), set(NORM_FLOOR))));
  for (int r = 0; r < height; r++) {
    const int i = query + r, row = i / a.cols, col = i % a.cols;
    float* logits = s.logits + static_cast<size_t>(r) * padded;
    const V scale = set(scales[r]);
    Bias bias(a, s, a.table + (row + a.rows - 1) * (2 * a.cols - 1) + a.cols - 1 - col, tokens, padded);
    const float* mask = a.region ? a.masks + a.region[i] * a.masks_stride : nullptr;
    V top = set(EXCLUDED), total = set(0.0f);
    if (padded == SHORT * LANES) {  // windows of 8 x 8 stay in registers
      V values[SHORT];
      UNROLL for (int j = 0; j < SHORT; j++) {
        values[j] = fma(mul(load(logits + j * LANES), load(s.lengths + j * LANES)), scale, bias.next());
        if (mask) values[j] = add(values[j], load(mask + j * LANES));
        top = max(top, values[j]);
      }
      const V high = set(largest(top));
      UNROLL for (int j = 0; j < SHORT; j++) {
        const V weight = P::weight(sub(values[j], high));
        total = add(total, weight);
        P::store_weight(logits, j * LANES, weight);
      }
    } else {
      for (int j = 0; j < padded; j += LANES) {
        V value = fma(mul(load(logits + j), load(s.lengths + j)), scale, bias.next());
        if (mask) value = add(value, load(mask + j));
        store(logits + j, value);
        top = max(top, value);
      }
      const V high = set(largest(top));
      for (int j = 0; j < padded; j += LANES) {
        const V weight = P::weight(sub(load(logits + j), high));
        total = add(total, weight);
        P::store_weight(logits, j, weight);
      }
    }
    partial[r] = total;
  }
  sums_of(partial, height, s.sums);
  for (int r = 0; r < height; r += LANES) store(s.sums + r, div(set(1.0f), load(s.sums + r)));
}

template <class P>
void soften(const Attention& a, const Scratch& s, int query, int height, int tokens, int padded) {
  if (WholeVectors::fits(a)) soften<P, WholeVectors>(a, s, query, height, tokens, padded);
  else if (TwoHalves::fits(a)) soften<P, TwoHalves>(a, s, query, height, tokens, padded);
  else soften<P, Staged>(a, s, query, height, tokens, padded);
}

template <class P, int R>
void attend_tile(const Attention& a, const Scratch& s, const Side& q, const Side& v, int query, int tokens,
                 int padded) {
  const int steps = a.head_dim / P::VALUES;
  for (int j = 0; j < padded; j += WIDTH) {
    typename P::A acc[R][COLUMNS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] = set(0.0f);
    tile<P, R>(acc, q.data + query * q.stride, q.stride,
               s.keys + static_cast<size_t>(j / WIDTH) * steps * STEP, STEP, steps, {s.keys, 0});
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++)
        store(s.logits + r * static_cast<size_t>(padded) + j + c * LANES, acc[r][c]);
  }
  soften<P>(a, s, query, R, tokens, padded);
  for (int panel = 0; panel * WIDTH < a.head_dim; panel++) {
    typename P::A acc[R][COLUMNS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < COLUMNS; c++) acc[r][c] = set(0.0f);
    tile<P, R>(acc, reinterpret_cast<const unsigned char*>(s.logits), static_cast<size_t>(padded) * 4,
               v.data + panel * v.panel, v.stride, (tokens + P::VALUES - 1) / P::VALUES, {s.keys, 0});
    UNROLL for (int c = 0; c < COLUMNS; c++) {
      const int channel = panel * WIDTH + c * LANES;
      if (channel < a.head_dim) {
        UNROLL for (int r = 0; r < R; r++) store_as(a.out_precision, a.out + (query + r) * a.out_stride,
                                                    channel, mul(acc[r][c], set(s.sums[r])));
      }
    }
  }
}

#if HAS_TILES
// The same for height rows, by the tiles of the processor.
void attend_tall(Tiles& tiles, const Attention& a, const Scratch& s, const Side& q, const Side& v, int query,
                 int height, int tokens, int padded) {
  const size_t row = static_cast<size_t>(padded) * 4;
  int steps = a.head_dim / 2;
  tiles.shape(height, steps);
  for (int panel = 0; panel * WIDTH < padded; panel++)
    tiles.multiply<2>(s.logits + panel * WIDTH, row, q.data + query * q.stride, q.stride,
                      s.keys + static_cast<size_t>(panel) * steps * STEP, STEP, steps, nullptr, 0);
  soften<AttendBf16>(a, s, query, height, tokens, padded);
  steps = padded / 2;
  tiles.shape(height, steps);
  for (int panel = 0; panel * WIDTH < a.head_dim; panel++) {
    alignas(64) float sums[TALL * WIDTH];
    tiles.multiply<2>(sums, STEP, reinterpret_cast<const unsigned char*>(s.logits), row,
                      v.data + panel * v.panel, v.stride, steps, nullptr, 0);
    for (int c = panel * WIDTH; c < a.head_dim && c < (panel + 1) * WIDTH; c += LANES)
      for (int r = 0; r < height; r++)
        store_as(a.out_precision, a.out + (query + r) * a.out_stride, c,
                 mul(load(sums + r * WIDTH + c % WIDTH), set(s.sums[r])));
  }
}
#endif

using AttendTile = void (*)(const Attention&, const Scratch&, const Side&, const Side&, int, int, int);

template <class P, int... R>
AttendTile attend_tile_of(int rows, Rows<R...>) {
  constexpr AttendTile tiles[] = {attend_tile<P, R + 1>...};
  return tiles[rows - 1];
}

template <class P>
void attend(const Attention& a, unsigned char* memory) {
  const int tokens = a.rows * a.cols, padded = round_up(tokens, WIDTH);
  const Scratch s(memory, padded, a.head_dim);
  pack_keys<P>(a, tokens, padded, s);
  const Split split(tokens, P::PRECISION);
  // Tall products are shaped for whole panels of keys: those beyond the window have no weight, and values 0.
  const int steps = split.tallest ? padded / P::VALUES : (tokens + P::VALUES - 1) / P::VALUES;
  const Side queries{a.qkv, a.stride, 0}, values = P::values(a, s, tokens, steps);
#if HAS_TILES
  if constexpr (is_tall(P::PRECISION)) {
    Tiles tiles;
    for (int t = 0; t < split.tiles; t++)
      attend_tall(tiles, a, s, queries, values, split.start(t), split.tallest, tokens, padded);
  } else
#endif
    for (int t = 0; t < split.tiles; t++) {
      const int query = split.start(t), height = split.height(t);
      attend_tile_of<P>(height, AllRows{})(a, s, queries, values, query, tokens, padded);
    }
}

void attention(const Attention& a, unsigned char* scratch) {
#if HAS_BF16
  if (a.precision == Precision::bf16) return attend<AttendBf16>(a, scratch);
#endif
#ifdef FP32_KERNELS
  FP32_KERNELS->attention(a, scratch);
#else
  attend<AttendFp32>(a, scratch);
#endif
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
