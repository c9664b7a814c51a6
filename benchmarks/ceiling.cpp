// The arithmetic that this machine does in registers: GFLOP/s (or GOP/s) of multiply-adds without memory.
//
//     g++ -O2 -march=native -pthread ceiling.cpp -o ceiling && ./ceiling fp32 2
//
// prints the best of several tries of all threads together. fp32: FMA; bf16: VDPBF16PS; int8: VPDPBUSD.
//
// ./ceiling fp32 2 cache takes the operands from the first cache instead, 15 loads for 26 multiply-adds as a product of
// matrices has them, and prints what is left after a tenth of a second of it: some processors lower their clock then.

#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int SUMS = 24;  // more than the latency of two units times two
#else
constexpr int SUMS = 12;
#endif

template <class V, class Mac>
__attribute__((noinline)) double operations(const Mac& mac, V start, int operations_of_one) {
  constexpr int ROUNDS = 2000000;
  V sums[SUMS];
#pragma GCC unroll 24
  for (int s = 0; s < SUMS; s++) sums[s] = start;
  for (int i = 0; i < ROUNDS; i++)
#pragma GCC unroll 24
    for (int s = 0; s < SUMS; s++) mac(sums[s]);
  return double{ROUNDS} * SUMS * operations_of_one;
}

double work(const char* what) {
#if defined(__AVX512F__)
  const __m512 x = _mm512_set1_ps(1e-8f), one = _mm512_set1_ps(1);
  const __m512i n = _mm512_set1_epi8(1);
  double count = 0;
  if (!std::strcmp(what, "fp32"))
    count = operations(
        [x](__m512& sum) {
          __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(sum) : "v"(x));
        },
        one, 32);
#if defined(__AVX512BF16__)
  if (!std::strcmp(what, "bf16"))
    count = operations(
        [x](__m512& sum) {
          __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(sum) : "v"(x));
        },
        one, 64);
#endif
#if defined(__AVX512VNNI__)
  if (!std::strcmp(what, "int8"))
    count = operations(
        [n](__m512i& sum) {
          __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(n));
        },
        n, 128);
#endif
  return count;
#elif defined(__AVX2__)
  const __m256 x = _mm256_set1_ps(1e-8f), one = _mm256_set1_ps(1);
  if (std::strcmp(what, "fp32")) return 0;
  return operations(
      [x](__m256& sum) {
        __asm__ volatile("vfmadd231ps %1, %1, %0" : "+x"(sum) : "x"(x));
      },
      one, 16);
#else
  return 0;
#endif
}

#if defined(__AVX512F__)
struct Fp32 {
  using V = __m512;
  static constexpr int OPERATIONS = 32;
  static V mac(V sum, __m512i x, __m512i w) {
    __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};
#if defined(__AVX512BF16__)
struct Bf16 : Fp32 {
  static constexpr int OPERATIONS = 64;
  static V mac(V sum, __m512i x, __m512i w) {
    __asm__ volatile("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};
#endif
#if defined(__AVX512VNNI__)
struct Int8 : Fp32 {
  static constexpr int OPERATIONS = 128;
  static V mac(V sum, __m512i x, __m512i w) {
    __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};
#endif

constexpr int ROWS = 13, COLUMNS = 2, STEPS = 96;  // 5 KB of rows and 12 KB of columns

// What a tile of sums of ROWS rows by COLUMNS vectors takes, in operations.
template <class P>
__attribute__((noinline)) double tile(const int* rows, const __m512i* columns, typename P::V* out) {
  typename P::V sums[ROWS][COLUMNS];
#pragma GCC unroll 26
  for (int i = 0; i < ROWS * COLUMNS; i++) sums[i / COLUMNS][i % COLUMNS] = _mm512_setzero_ps();
  for (int k = 0; k < STEPS; k++) {
    __m512i w[COLUMNS];
#pragma GCC unroll 2
    for (int c = 0; c < COLUMNS; c++) w[c] = _mm512_load_si512(columns + k * COLUMNS + c);
#pragma GCC unroll 13
    for (int r = 0; r < ROWS; r++) {
      const __m512i x = _mm512_set1_epi32(rows[r * STEPS + k]);
#pragma GCC unroll 2
      for (int c = 0; c < COLUMNS; c++) sums[r][c] = P::mac(sums[r][c], x, w[c]);
    }
  }
#pragma GCC unroll 26
  for (int i = 0; i < ROWS * COLUMNS; i++) out[i] = sums[i / COLUMNS][i % COLUMNS];
  return double{STEPS} * ROWS * COLUMNS * P::OPERATIONS;
}

template <class P>
double tiles(int count) {
  alignas(64) static thread_local int rows[ROWS * STEPS];
  alignas(64) static thread_local __m512i columns[STEPS * COLUMNS];
  alignas(64) static thread_local typename P::V out[ROWS * COLUMNS];
  double operations = 0;
  for (int i = 0; i < count; i++) operations += tile<P>(rows, columns, out);
  return operations;
}
#endif

// The same from the first cache.
double work_from_cache(const char* what) {
#if defined(__AVX512F__)
  constexpr int COUNT = 20000;
  if (!std::strcmp(what, "fp32")) return tiles<Fp32>(COUNT);
#if defined(__AVX512BF16__)
  if (!std::strcmp(what, "bf16")) return tiles<Bf16>(COUNT);
#endif
#if defined(__AVX512VNNI__)
  if (!std::strcmp(what, "int8")) return tiles<Int8>(COUNT);
#endif
#endif
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 3 && !(argc == 4 && !std::strcmp(argv[3], "cache")))
    return std::fprintf(stderr, "usage: ceiling fp32|bf16|int8 THREADS [cache]\n"), 2;
  const int count = std::atoi(argv[2]);
  const bool cache = argc == 4;
  double best = 0;
  for (int attempt = 0; attempt < 7; attempt++) {
    std::atomic<int> waiting{count};
    std::vector<double> done(static_cast<size_t>(count));
    std::vector<std::thread> threads;
    for (int t = 0; t < count; t++)
      threads.emplace_back([&, t] {
        waiting--;
        while (waiting > 0) {
        }
        auto start = std::chrono::steady_clock::now();
        const auto seconds = [&start] {
          return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        };
        if (cache) {
          while (seconds() < 0.1) work_from_cache(argv[1]);
          start = std::chrono::steady_clock::now();
        }
        const double operations = cache ? work_from_cache(argv[1]) : work(argv[1]);
        done[static_cast<size_t>(t)] = operations / seconds() / 1e9;
      });
    double all = 0;
    for (std::thread& thread : threads) thread.join();
    for (double rate : done) all += rate;
    if (all > best) best = all;
  }
  std::printf("%.1f\n", best);
}
