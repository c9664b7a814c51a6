// The arithmetic of the network as a table of plain functions, one table per instruction set.
//
// reference.cpp is the specification: loops that say what each function computes. body.h is the fast twin,
// compiled once per instruction set over the vector types of that set. Both have the same table, so a test
// can hold any function of any set against the reference, and the network (forward.cpp) does not know which
// one it runs.
//
// Matrix products take activations as rows ("operands") and weights as panels. A step of a product is four
// bytes of a row: one float, two bfloat16 or four int8, so that the loops are the same in every precision.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swinv2 {

enum class Precision { fp32, bf16, int8 };

inline int values_of_step(Precision p) { return p == Precision::fp32 ? 1 : p == Precision::bf16 ? 2 : 4; }
inline int bytes_of_value(Precision p) { return 4 / values_of_step(p); }

// Rows of activations. int8: value = data * scale[row], and sum[row] is the sum of the row's data.
struct Operand {
  Precision precision = Precision::fp32;
  unsigned char* data = nullptr;
  size_t stride = 0;  // bytes from row to row
  float* scale = nullptr;
  int32_t* sum = nullptr;

  Operand from(int row) const {  // the rows that start at row
    return {precision, data + row * stride, stride, scale ? scale + row : nullptr, sum ? sum + row : nullptr};
  }
};

// Weights [outs, in] as panels: data[panel][step][column of the panel][value of the step], zeros where
// padded. int8: value = (data - offset) * scale[out], with the offset of the table of kernels.
struct Packed {
  Precision precision = Precision::fp32;
  int outs = 0, in = 0;  // of the matrix
  int panels = 0, steps = 0;
  const unsigned char* data = nullptr;
  const float* bias = nullptr;   // [panels * width], zeros where there is none
  const float* scale = nullptr;  // [panels * width], int8 only
};

// One head of one window.
// q, k and v lie in rows of the qkv product: k dim values behind q, v dim values behind k.
struct Attention {
  Precision precision;       // of qkv and of the two products: fp32 or bf16
  const unsigned char* qkv;  // [tokens] rows of stride bytes, at the head's first channel of q
  size_t stride;
  int dim, head_dim;  // head_dim is a multiple of 16
  int rows, cols;     // of the window, in tokens
  float scale;        // exp of the clamped logit scale
  // Position bias by offset, mirrored so that the keys of a row lie in order:
  // bias of query (r, c) and key (s, t) = table[(r - s + rows - 1) * (2 * cols - 1) + (t - c + cols - 1)].
  const float* table;
  // Regions that must not see each other, or null: token i is in region[i], and sees key j with
  // masks[region[i] * masks_stride + j] added.
  const unsigned char* region;
  const float* masks;
  size_t masks_stride;
  unsigned char*
      out;  // [tokens] rows of out_stride bytes: head_dim values in out_precision: fp32, or precision
  size_t out_stride;
  Precision out_precision;
};

struct Kernels {
  const char* name;
  int width;   // columns of a panel
  int offset;  // of int8 weights: 128 where products take unsigned by signed (VNNI), 0 where both are signed
  bool bf16, int8;

  // out[r, o] = sum_i x[r, i] * w[o, i] + bias[o]   for the columns of the panels first to last (not
  // included). out: rows with room for whole panels, of fp32, or of bf16 where the weights are not fp32.
  void (*linear)(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last);

  // The same followed by GELU (erf).
  void (*linear_gelu)(const Operand& out, const Operand& x, int rows, const Packed& w, int first, int last);

  // Row number row of an operand from floats; values cols to padded become 0.
  void (*encode)(const Operand& out, int row, const float* x, int cols, int padded);

  // y = LayerNorm(x) * gain + bias, eps 1e-5; y may be x. cols is a multiple of 16.
  void (*norm)(float* y, const float* x, int cols, const float* gain, const float* bias);

  // x += LayerNorm(y) * gain + bias
  void (*add_norm)(float* x, const float* y, int cols, const float* gain, const float* bias);

  // out = softmax(cos(q, k) * scale + bias + mask) v; scratch: attention_scratch() bytes, aligned to 64.
  void (*attention)(const Attention& a, unsigned char* scratch);
};

size_t attention_scratch(int tokens, int head_dim);

// The tables that this processor can run, best first; the last is the reference.
int kernel_tables(const Kernels* const** tables);

// Tables by instruction set; null where the compiler's target has no such thing.
const Kernels* reference_kernels();
const Kernels* avx2_kernels();
const Kernels* avx2_vnni_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_vnni_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* avx512_amx_kernels();
const Kernels* neon_kernels();
const Kernels* neon_dot_kernels();
const Kernels* neon_bf16_kernels();
const Kernels* neon_i8mm_kernels();
const Kernels* simd128_kernels();

// Packs weights [outs, in] (row-major floats) for a width. data: packed_bytes() of room, aligned to 64.
// int8: one scale per out, of which the largest weight is 127, and the offset of the table.
size_t packed_bytes(Precision precision, int outs, int in, int width);
void pack(Precision precision, const float* w, int outs, int in, int width, int offset, unsigned char* data,
          float* scale);

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// float -> bfloat16, rounding to nearest even, as the hardware does; NaN stays NaN.
inline uint16_t to_bf16(float value) {
  union {
    float f;
    uint32_t u;
  } x{value};
  if ((x.u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((x.u >> 16) | 0x40);
  return static_cast<uint16_t>((x.u + 0x7fffu + ((x.u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t value) {
  union {
    uint32_t u;
    float f;
  } x{static_cast<uint32_t>(value) << 16};
  return x.f;
}

}  // namespace swinv2
