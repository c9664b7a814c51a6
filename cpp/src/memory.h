// Memory for vectors: aligned to cache lines, not initialised, one owner.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(_WIN32)
#include <malloc.h>
#endif

namespace swinv2 {

constexpr size_t LINE = 64;

inline size_t whole_lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(whole_lines(bytes)) {
#if defined(_WIN32)
    data_.reset(static_cast<unsigned char*>(_aligned_malloc(bytes_ + LINE, LINE)));
#else
    data_.reset(static_cast<unsigned char*>(std::aligned_alloc(LINE, bytes_ + LINE)));
#endif
    if (!data_) throw std::bad_alloc();
  }
  unsigned char* data() const { return data_.get(); }
  float* floats() const { return reinterpret_cast<float*>(data_.get()); }
  size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(unsigned char* p) const {
#if defined(_WIN32)
      _aligned_free(p);
#else
      std::free(p);
#endif
    }
  };
  std::unique_ptr<unsigned char, Free> data_;
  size_t bytes_ = 0;
};

// Hands out parts of one piece of memory. Without memory it only counts what they need.
class Arena {
 public:
  explicit Arena(unsigned char* memory = nullptr) : memory_(memory) {}
  template <class T>
  T* take(size_t count) {
    const size_t at = used_;
    used_ += whole_lines(count * sizeof(T));
    return memory_ ? reinterpret_cast<T*>(memory_ + at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_ = 0;
};

}  // namespace swinv2
