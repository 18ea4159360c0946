// Any bytes, as a tar archive (plain or gzip), either give the files of a data set or an Error.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "core/check.h"
#include "image/dataset_tree.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = ::memfd_create("fuzz.tar", 0);
  if (fd < 0 || ::write(fd, data, size) != static_cast<ssize_t>(size)) __builtin_trap();
  try {
    const auto tree = fovea::open_archive_tree("/proc/self/fd/" + std::to_string(fd));
    for (size_t i = 0; i < tree->files().size(); ++i) (void)tree->bytes(i);
    for (const std::string& folder : tree->folders()) (void)tree->files_below(folder);
    (void)tree->folders_in("");
  } catch (const fovea::Error&) {
  }
  ::close(fd);
  return 0;
}
