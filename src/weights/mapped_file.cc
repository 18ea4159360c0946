#include "weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "core/check.h"

namespace fovea {

namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

FileBytes map_file(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must not hang.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  require(file.fd >= 0, "cannot open '{}': {}", path, std::generic_category().message(errno));
  struct stat info {};
  require(::fstat(file.fd, &info) == 0, "cannot read '{}': {}", path, std::generic_category().message(errno));
  require(!S_ISDIR(info.st_mode), "'{}' is a directory; name the weights file inside it", path);
  require(S_ISREG(info.st_mode), "'{}' is not a regular file", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return {path, {}, nullptr};
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  require(data != MAP_FAILED, "cannot map '{}': {}", path, std::generic_category().message(errno));
  std::shared_ptr<const void> owner(data, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
  return {path, {static_cast<const std::byte*>(data), size}, std::move(owner), true};
}

void release_pages(const std::byte* mapped, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped) / page * page, end = reinterpret_cast<uintptr_t>(mapped) + bytes;
  // Memory is only given back, so a refusal changes nothing.
  if (bytes != 0) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace fovea
