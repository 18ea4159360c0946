// Any bytes, as a tar archive (plain or gzip), either give the files of a data set or an Error. A header's checksum would stop nearly
// every change that the fuzzer makes, so the bytes are tried a second time with the checksums that they should have.
#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string>

#include "core/check.h"
#include "image/dataset_tree.h"

namespace {

constexpr size_t kBlock = 512, kSizeAt = 124, kChecksumAt = 148, kChecksumBytes = 8;

void read_tar(const std::string& bytes) {
  const int fd = ::memfd_create("fuzz.tar", 0);
  if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) __builtin_trap();
  try {
    const auto tree = fovea::open_archive_tree("/proc/self/fd/" + std::to_string(fd));
    for (size_t i = 0; i < tree->files().size(); ++i) (void)tree->bytes(i);
    for (const std::string& folder : tree->folders()) (void)tree->files_below(folder);
    (void)tree->folders_in("");
  } catch (const fovea::Error&) {
  }
  ::close(fd);
}

std::string with_checksums(std::string bytes) {
  for (size_t at = 0; at + kBlock <= bytes.size();) {
    bytes.replace(at + kChecksumAt, kChecksumBytes, kChecksumBytes, ' ');
    unsigned sum = 0;
    for (size_t i = 0; i < kBlock; ++i) sum += static_cast<unsigned char>(bytes[at + i]);
    char text[kChecksumBytes + 1];
    std::snprintf(text, sizeof text, "%06o", sum);
    bytes.replace(at + kChecksumAt, 7, text, 7);
    size_t size = 0;
    std::from_chars(bytes.data() + at + kSizeAt, bytes.data() + at + kSizeAt + 11, size, 8);
    at += kBlock + (size + kBlock - 1) / kBlock * kBlock;
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read_tar(bytes);
  read_tar(with_checksums(bytes));
  return 0;
}
