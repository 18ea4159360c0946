// A file's bytes, mapped read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace fovea {

// Bytes that come from `path` (used in messages) and stay valid while `owner` lives.
struct FileBytes {
  std::string path;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  bool mapped = false;  // a mapping of the file, not a copy: release_pages may be used
};

// Some of a file's bytes, or what was unpacked from them, while `owner` lives.
struct FilePart {
  std::span<const std::byte> span;
  std::shared_ptr<const void> owner;
  bool mapped = false;  // lies in the file's mapping
};

// Maps a regular file. Throws Error when it is missing, a directory, not a regular file, or cannot be read.
FileBytes map_file(const std::string& path);

// Lets the system take back the memory that a part of a mapped file occupies; reading it again fetches it from the file.
void release_pages(const std::byte* mapped, size_t bytes);

}  // namespace fovea
