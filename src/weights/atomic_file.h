// A file that appears under its name completely or not at all.
#pragma once

#include <cstddef>
#include <string>

namespace fovea {

// Writes to a temporary file in the same folder; commit() flushes it to the disk and renames it over `path`. Without
// commit() (an exception, a failed write) the temporary file is removed and what stood at `path` stays untouched.
// Temporary files that killed processes left behind for the same path are removed on the way.
// Every member throws Error naming the path and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail_write(int error);
  void remove_abandoned() const;

  std::string path_, target_, folder_, temporary_;  // target_ is path_ with links followed
  int fd_ = -1;
};

}  // namespace fovea
