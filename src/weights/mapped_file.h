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
};

// Maps a regular file. Throws Error when it is missing, a directory, not a regular file, or cannot be read.
FileBytes map_file(const std::string& path);

}  // namespace fovea
