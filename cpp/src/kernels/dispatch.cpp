// Which tables this processor can run.

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if SWINV2_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace swinv2 {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

#if SWINV2_AMX
// Linux gives the registers of AMX, 8 KB of every thread, to processes that ask.
bool are_tiles_given() {
  constexpr long ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA in newer headers
  return syscall(SYS_arch_prctl, ASK, TILES) == 0;
}
#endif

struct Registers {
  unsigned a, b, c, d;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
#if defined(_MSC_VER) && !defined(__clang__)
  int r[4];
  __cpuidex(r, static_cast<int>(leaf), static_cast<int>(subleaf));
  return {static_cast<unsigned>(r[0]), static_cast<unsigned>(r[1]), static_cast<unsigned>(r[2]),
          static_cast<unsigned>(r[3])};
#else
  Registers r{0, 0, 0, 0};
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
#endif
}

// What the operating system saves when it switches threads.
unsigned long long saved_state() {
#if defined(_MSC_VER) && !defined(__clang__)
  return _xgetbv(0);
#else
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
#endif
}

bool bit(unsigned value, int number) { return (value >> number) & 1; }

int find(const Kernels** tables) {
  int count = 0;
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), more = cpuid(7, 1);
  if (bit(one.c, 27)) {  // OSXSAVE
    const unsigned long long state = saved_state();
    const bool vectors = (state & 0x6) == 0x6, wide = (state & 0xe6) == 0xe6;
    const bool avx2 = vectors && bit(one.c, 12) && bit(seven.b, 5);  // FMA, AVX2
    const bool avx512 =
        wide && avx2 && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) && bit(seven.b, 31);
    const bool vnni = avx512 && bit(seven.c, 11), bf16 = vnni && bit(more.a, 5);
#if SWINV2_AMX
    const bool tiles = bf16 && (state & 0x60000) == 0x60000 && bit(seven.d, 22) && bit(seven.d, 24) &&
                       bit(seven.d, 25);  // AMX-BF16, AMX-TILE, AMX-INT8
    if (tiles && are_tiles_given()) tables[count++] = avx512_amx_kernels();
#endif
    if (bf16) tables[count++] = avx512_bf16_kernels();
    if (vnni) tables[count++] = avx512_vnni_kernels();
    if (avx512) tables[count++] = avx512_kernels();
    if (avx2 && bit(more.a, 4)) tables[count++] = avx2_vnni_kernels();
    if (avx2) tables[count++] = avx2_kernels();
  }
  return count;
}

#elif defined(__aarch64__) || defined(_M_ARM64)

int find(const Kernels** tables) {
  int count = 0;
#if defined(__linux__)
  const bool dot = getauxval(AT_HWCAP) & (1ul << 20);           // HWCAP_ASIMDDP; older headers lack the names
  const bool bf16 = dot && getauxval(AT_HWCAP2) & (1ul << 14);  // HWCAP2_BF16
  const bool i8mm = getauxval(AT_HWCAP2) & (1ul << 13);         // HWCAP2_I8MM
  if (bf16 && i8mm) tables[count++] = neon_i8mm_kernels();
  if (bf16) tables[count++] = neon_bf16_kernels();
  if (dot) tables[count++] = neon_dot_kernels();
#elif defined(__APPLE__)
  tables[count++] = neon_dot_kernels();
#elif defined(_WIN32)
  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; older headers lack the name
  if (IsProcessorFeaturePresent(43)) tables[count++] = neon_dot_kernels();
#endif
  tables[count++] = neon_kernels();
  return count;
}

#elif defined(__wasm_simd128__)

int find(const Kernels** tables) {
  tables[0] = simd128_kernels();  // a browser without them refuses the whole file
  return 1;
}

#else

int find(const Kernels**) { return 0; }

#endif

}  // namespace

int kernel_tables(const Kernels* const** tables) {
  static const Kernels* found[8];
  static const int count = [] {
    int n = find(found);
    found[n++] = reference_kernels();
    return n;
  }();
  *tables = found;
  return count;
}

size_t attention_scratch(int tokens, int head_dim) {
  const size_t padded = static_cast<size_t>(round_up(tokens, 32)),
               head = static_cast<size_t>(round_up(head_dim, 32));
  const size_t keys = padded * head * 4, values = padded * head * 2;
  const size_t rows = 32;  // at most, of a tile; sums are written in whole vectors
  return keys + values + (rows * padded + 2 * padded + 64 + 2 * rows) * sizeof(float);
}

}  // namespace swinv2
