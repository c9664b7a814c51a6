// The bytes of a file as memory, read-only: only the pages that are looked at are read, and they are shared.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace swinv2 {

class Mapping {
 public:
  // path is UTF-8 on every system. Throws Error NO_FILE with the reason.
  // Nobody may cut the file short while it is mapped: POSIX ends a program that reads pages which are no
  // longer there. (Windows does not let it be cut.)
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const unsigned char* bytes() const { return bytes_; }  // null where the file is empty
  size_t size() const { return size_; }
  // Gives the memory of the pages back that were read so far; looking at them again reads them again.
  void forget() const;

 private:
  const unsigned char* bytes_ = nullptr;
  size_t size_ = 0;
};

// The whole of a file, or of a pipe under that name. path is UTF-8; throws Error NO_FILE.
std::vector<unsigned char> read_file(const std::string& path);

}  // namespace swinv2
