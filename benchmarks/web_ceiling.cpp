// Products and sums of 4 floats in registers, for benchmarks/web.py: what WebAssembly can do at most, without a fused
// instruction. Returns a number that depends on all of them, so that none is left out.
#include <wasm_simd128.h>

constexpr int SUMS = 12;  // as many as a tile of the engine has

extern "C" float multiply(int rounds) {
  v128_t sums[SUMS];
  for (int i = 0; i < SUMS; i++) sums[i] = wasm_f32x4_splat(static_cast<float>(i));
  v128_t x = wasm_f32x4_splat(0.999f), w = wasm_f32x4_splat(1e-3f);
  for (int round = 0; round < rounds; round++) {
    __asm__("" : "+r"(x), "+r"(w));  // or a compiler would multiply once
#pragma clang loop unroll(full)
    for (int i = 0; i < SUMS; i++) sums[i] = wasm_f32x4_add(sums[i], wasm_f32x4_mul(x, w));
  }
  v128_t all = sums[0];
  for (int i = 1; i < SUMS; i++) all = wasm_f32x4_add(all, sums[i]);
  return wasm_f32x4_extract_lane(all, 0);
}
