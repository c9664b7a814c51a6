// The arithmetic that this machine does in registers: GFLOP/s (or GOP/s) of multiply-adds without memory.
//
//     g++ -O2 -march=native -pthread ceiling.cpp -o ceiling && ./ceiling fp32 2
//
// prints the best of several tries of all threads together. fp32: FMA; bf16: VDPBF16PS; int8: VPDPBUSD.

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

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: ceiling fp32|bf16|int8 THREADS\n"), 2;
  const int count = std::atoi(argv[2]);
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
        const auto start = std::chrono::steady_clock::now();
        const double operations = work(argv[1]);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        done[static_cast<size_t>(t)] = operations / seconds.count() / 1e9;
      });
    double all = 0;
    for (std::thread& thread : threads) thread.join();
    for (double rate : done) all += rate;
    if (all > best) best = all;
  }
  std::printf("%.1f\n", best);
}
