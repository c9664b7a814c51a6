// All that the tests need of a framework: claims that are counted, and the exit status.
//
//     CHECK(2 + 2 == 4);
//     CHECK(error < 1e-6, "gelu is off by " + std::to_string(error));
//     return finish();
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

#define CHECK(...) check(__FILE__, __LINE__, #__VA_ARGS__, __VA_ARGS__)

inline std::atomic<int> checks_made{0}, checks_failed{0};  // tests have threads

inline void check(const char* file, int line, const char* code, bool claim, const std::string& text = "") {
  checks_made++;
  if (claim) return;
  checks_failed++;
  std::printf("%s:%d: %s\n", file, line, text.empty() ? code : text.c_str());
}

inline int finish() {
  std::printf("%d checks, %d failed\n", checks_made.load(), checks_failed.load());
  return checks_failed > 0 || checks_made == 0;
}
