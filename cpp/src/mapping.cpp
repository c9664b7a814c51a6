// mmap where there is POSIX, a file mapping on Windows; both keep the file after its handle is closed.

#define _FILE_OFFSET_BITS 64  // 32-bit systems do not open files over 2 GB otherwise

#include "mapping.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <system_error>

#include "error.h"

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace swinv2 {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& reason) {
  throw Error(SWINV2_NO_FILE, path + " " + reason);
}

[[noreturn]] void fail_for_size(const std::string& path) {
  fail(path, "is larger than the memory that a 32-bit program can address; use a 64-bit build");
}

}  // namespace

#ifdef _WIN32

namespace {

struct Handle {  // closed at the end of the scope
  HANDLE value;
  ~Handle() {
    if (value && value != INVALID_HANDLE_VALUE) CloseHandle(value);
  }
};

std::wstring wide(const std::string& path) {
  const int length = static_cast<int>(path.size());
  const int needed = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), length, nullptr, 0);
  if (needed <= 0) fail(path, "is not a path in UTF-8");
  std::wstring converted(static_cast<size_t>(needed), L'\0');
  MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), length, &converted[0], needed);
  return converted;
}

// In our words: the system's own are in the user's code page, and errors here are UTF-8.
std::string reason(DWORD code) {
  switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME: return "cannot be opened: there is no such file";
    case ERROR_ACCESS_DENIED: return "cannot be opened: access is denied";
    case ERROR_SHARING_VIOLATION: return "cannot be opened: another program is writing it";
    case ERROR_NOT_ENOUGH_MEMORY: return "cannot be read: no room in the address space";
    default: return "cannot be read: Windows error " + std::to_string(code);
  }
}

}  // namespace

Mapping::Mapping(const std::string& path) {
  if (path.empty() || path.size() > 32'000) fail("the path", "is empty or too long");
  const std::wstring name = wide(path);
  const DWORD attributes = GetFileAttributesW(name.c_str());
  if (attributes == INVALID_FILE_ATTRIBUTES) fail(path, reason(GetLastError()));
  if (attributes & FILE_ATTRIBUTE_DIRECTORY) fail(path, "is a folder; give the file inside it");
  const Handle file{CreateFileW(name.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                                OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr)};
  if (file.value == INVALID_HANDLE_VALUE) fail(path, reason(GetLastError()));
  LARGE_INTEGER size;
  const bool is_file = GetFileType(file.value) == FILE_TYPE_DISK && GetFileSizeEx(file.value, &size);
  if (!is_file) fail(path, "is not a file");
  if (static_cast<uint64_t>(size.QuadPart) > SIZE_MAX) fail_for_size(path);
  size_ = static_cast<size_t>(size.QuadPart);
  if (size_ == 0) return;
  const Handle mapping{CreateFileMappingW(file.value, nullptr, PAGE_READONLY, 0, 0, nullptr)};
  if (!mapping.value) fail(path, reason(GetLastError()));
  bytes_ = static_cast<const unsigned char*>(MapViewOfFile(mapping.value, FILE_MAP_READ, 0, 0, 0));
  if (!bytes_) fail(path, reason(GetLastError()));
}

Mapping::~Mapping() {
  if (bytes_) UnmapViewOfFile(bytes_);
}

void Mapping::forget() const {
  // Of pages that nobody locked, this takes them out of the working set.
  if (bytes_) VirtualUnlock(const_cast<unsigned char*>(bytes_), size_);
}

#else

namespace {

struct Descriptor {  // closed at the end of the scope
  int value;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

std::string reason(int code) { return "cannot be opened: " + std::generic_category().message(code); }

}  // namespace

Mapping::Mapping(const std::string& path) {
  // O_NONBLOCK: a pipe under the name must not keep us waiting for its writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status;
  if (file.value < 0 || fstat(file.value, &status) != 0) fail(path, reason(errno));
  if (S_ISDIR(status.st_mode)) fail(path, "is a folder; give the file inside it");
  if (!S_ISREG(status.st_mode)) fail(path, "is not a file");
  if (static_cast<uint64_t>(status.st_size) > SIZE_MAX) fail_for_size(path);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses it; the reader has a better sentence
  void* bytes = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (bytes == MAP_FAILED) fail(path, reason(errno));
  bytes_ = static_cast<const unsigned char*>(bytes);
}

Mapping::~Mapping() {
  if (bytes_) munmap(const_cast<unsigned char*>(bytes_), size_);
}

void Mapping::forget() const {
  if (bytes_)
    madvise(const_cast<unsigned char*>(bytes_), size_, MADV_DONTNEED);  // of a file: nothing is lost
}

#endif

std::vector<unsigned char> read_file(const std::string& path) {
#ifdef _WIN32
  std::FILE* opened = _wfopen(wide(path).c_str(), L"rb");
#else
  std::FILE* opened = std::fopen(path.c_str(), "rb");
#endif
  if (!opened) fail(path, "cannot be opened: " + std::generic_category().message(errno));
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(opened, std::fclose);
  std::vector<unsigned char> bytes;
  unsigned char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, opened))
    bytes.insert(bytes.end(), buffer, buffer + count);
  if (std::ferror(opened)) fail(path, "cannot be read: " + std::generic_category().message(errno));
  return bytes;
}

}  // namespace swinv2
