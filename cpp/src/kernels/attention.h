// Window attention over the vectors of an instruction set: one head of one window, scores and values as products of
// the tiles of body.h. What is said there holds here.

namespace swinv2 {
namespace SWINV2_SET {
namespace {

constexpr int SHORT = 64 / LANES;  // vectors of a row of logits that is kept in registers

// What attention() keeps of one head; all of it stays in the first cache for windows up to 16 x 16.
struct Scratch {
  unsigned char *keys, *queries, *values;
  float *logits, *bias, *sums;

  Scratch(unsigned char* memory, int padded, int head_dim) {
    keys = memory;
    queries = keys + static_cast<size_t>(padded) * head_dim * 4;
    values = queries + static_cast<size_t>(padded) * head_dim * 2;
    logits = reinterpret_cast<float*>(values + static_cast<size_t>(padded) * round_up(head_dim, WIDTH) * 2);
    bias = logits + static_cast<size_t>(TALL) * padded;
    sums = bias + padded + 2 * LANES;
  }
};

// Rows or panels in memory: where they start, and bytes from one to the next.
struct Side {
  const unsigned char* data;
  size_t stride;
  size_t panel;  // bytes from panel to panel
};

// How the two products of attention take their sides, in float32: queries and values as they lie in the qkv
// rows.
struct AttendFp32 : Fp32 {
  static constexpr Precision PRECISION = Precision::fp32;
  static void store_step(unsigned char* to, const V* channel, V inverse) {
    store(reinterpret_cast<float*>(to), mul(channel[0], inverse));
  }
  static void store_weight(float* logits, int j, V weight) { store(logits + j, weight); }
  static Side queries(const Attention& a, const Scratch&, int) {
    return {reinterpret_cast<const unsigned char*>(a.qkv), a.stride * 4, 0};
  }
  static Side values(const Attention& a, const Scratch&, int, int) {
    return {reinterpret_cast<const unsigned char*>(a.qkv + 2 * a.dim), a.stride * 4, STEP};
  }
};

#if HAS_BF16
// The same in bfloat16: queries rounded, keys and values as pairs.
struct AttendBf16 : Bf16 {
  static constexpr Precision PRECISION = Precision::bf16;
  static void store_step(unsigned char* to, const V* channel, V inverse) {
    store_pairs(to, mul(channel[0], inverse), mul(channel[1], inverse));
  }
  static void store_weight(float* logits, int j, V weight) {  // behind what is still to be read
    store_bf16(reinterpret_cast<uint16_t*>(logits) + j, weight);
  }
  static Side queries(const Attention& a, const Scratch& s, int tokens) {
    const size_t stride = static_cast<size_t>(a.head_dim) * 2;
    for (int i = 0; i < tokens; i++)
      for (int c = 0; c < a.head_dim; c += LANES)
        store_bf16(reinterpret_cast<uint16_t*>(s.queries + i * stride) + c, load(a.qkv + i * a.stride + c));
    return {s.queries, stride, 0};
  }
  static Side values(const Attention& a, const Scratch& s, int tokens, int steps) {
    const size_t panel = static_cast<size_t>(steps) * STEP;
    for (int j = 0; j < 2 * steps; j += 2) {
      const float* v = a.qkv + j * a.stride + 2 * a.dim;
      for (int c = 0; c < a.head_dim; c += LANES)
        store_pairs(s.values + c / WIDTH * panel + j / 2 * STEP + c % WIDTH * 4,
                    j < tokens ? load(v + c) : set(0.0f),
                    j + 1 < tokens ? load(v + a.stride + c) : set(0.0f));
    }
    return {s.values, STEP, panel};
  }
};
#endif

// Unit keys as panels [keys / WIDTH][steps][WIDTH], zeros beyond the window.
template <class P>
void pack_keys(const Attention& a, int tokens, int padded, unsigned char* keys) {
  const int d = a.head_dim, steps = d / P::VALUES;
  for (int j = 0; j < padded; j += LANES) {
    V square = set(0.0f);
    V channels[MAX_HEAD];  // of LANES keys each
    for (int c = 0; c < d; c += LANES) {
      V key[LANES];
      UNROLL for (int r = 0; r < LANES; r++) key[r] =
          j + r < tokens ? load(a.qkv + (j + r) * a.stride + a.dim + c) : set(0.0f);
      transpose(key, channels + c);
      UNROLL for (int i = 0; i < LANES; i++) square = fma(channels[c + i], channels[c + i], square);
    }
    const V inverse = div(set(1.0f), max(sqrt(square), set(NORM_FLOOR)));
    unsigned char* to = keys + (static_cast<size_t>(j / WIDTH) * steps * WIDTH + j % WIDTH) * 4;
    for (int k = 0; k < steps; k++)
      P::store_step(to + static_cast<size_t>(k) * STEP, channels + k * P::VALUES, inverse);
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

// logits[i, j] = logits[i, j] * scale / |q[i]| + bias + mask, then their exponentials as weights of the
// values, in place; 1 / the sum of every row goes to sums.
template <class P, class Bias>
void soften(const Attention& a, const Scratch& s, int query, int height, int tokens, int padded) {
  V partial[TALL];
  alignas(64) float scales[TALL + LANES];
  for (int r = 0; r < height; r++) {
    const float* q = a.qkv + (query + r) * a.stride;
    partial[r] = set(0.0f);
    for (int c = 0; c < a.head_dim; c += LANES) partial[r] = fma(load(q + c), load(q + c), partial[r]);
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
        values[j] = fma(load(logits + j * LANES), scale, bias.next());
        if (mask) values[j] = add(values[j], load(mask + j * LANES));
        top = max(top, values[j]);
      }
      const V high = set(largest(top));
      UNROLL for (int j = 0; j < SHORT; j++) {
        const V weight = exp(sub(values[j], high));
        total = add(total, weight);
        P::store_weight(logits, j * LANES, weight);
      }
    } else {
      for (int j = 0; j < padded; j += LANES) {
        V value = fma(load(logits + j), scale, bias.next());
        if (mask) value = add(value, load(mask + j));
        store(logits + j, value);
        top = max(top, value);
      }
      const V high = set(largest(top));
      for (int j = 0; j < padded; j += LANES) {
        const V weight = exp(sub(load(logits + j), high));
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
  pack_keys<P>(a, tokens, padded, s.keys);
  const Split split(tokens, P::PRECISION);
  // Tall products are shaped for whole panels of keys: those beyond the window have no weight, and values 0.
  const int steps = split.tallest ? padded / P::VALUES : (tokens + P::VALUES - 1) / P::VALUES;
  const Side queries = P::queries(a, s, tokens), values = P::values(a, s, tokens, steps);
#if HAS_TILES
  if (split.tallest) {
    Tiles tiles;
    for (int t = 0; t < split.tiles; t++)
      attend_tall(tiles, a, s, queries, values, split.start(t), split.tallest, tokens, padded);
    return;
  }
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
  attend<AttendFp32>(a, scratch);
}

}  // namespace
}  // namespace SWINV2_SET
}  // namespace swinv2
