// SHA-256 (FIPS 180-4), for the hash of the weights that a record states.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace swinv2 {

class Sha256 {
 public:
  void add(const void* bytes, size_t size);
  std::string hex();  // 64 digits, lower case; nothing can be added after it

 private:
  void compress(const unsigned char* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> pending_{};  // the start of a block
  uint64_t size_ = 0;                        // bytes added
};

}  // namespace swinv2
