// Memory for vectors: aligned to cache lines, not initialised, one owner.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

namespace swinv2 {

constexpr size_t LINE = 64;
constexpr size_t HUGE_PAGE = size_t{2}
                             << 20;  // weights in small pages cost a look at the page table every 4 KB

inline size_t whole_lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(whole_lines(bytes)) {
#if defined(_WIN32)
    data_.reset(static_cast<unsigned char*>(_aligned_malloc(bytes_ + LINE, LINE)));
#else
    const size_t page = bytes_ >= HUGE_PAGE / 2 ? HUGE_PAGE : LINE;
    const size_t whole = (bytes_ + LINE + page - 1) / page * page;  // what is not touched takes no memory
    data_.reset(static_cast<unsigned char*>(std::aligned_alloc(page, whole)));
#endif
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (page == HUGE_PAGE)
      madvise(data_.get(), bytes_ / page * page, MADV_HUGEPAGE);  // a wish; it works without
#endif
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
