// The files below a folder or in a tar archive, with the same names either way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "image/image.h"

namespace fovea {

// Whether a file's extension is that of a picture (JPEG, PNG, WebP, TIFF, GIF, BMP, PPM/PGM/PBM).
bool has_image_extension(std::string_view name);

// Constant after opening; any number of threads may read. Names are relative to the root, with '/' between folders.
// Hidden files and folders are not there.
class FileTree {
 public:
  virtual ~FileTree() = default;

  const std::string& root() const { return root_; }
  const std::vector<std::string>& files() const { return files_; }      // sorted; pictures and IDX files alone
  const std::vector<std::string>& folders() const { return folders_; }  // sorted
  const std::vector<std::string>& notes() const { return notes_; }      // what was left aside

  // [begin, end) of the files below `folder` ("": all), at any depth.
  std::pair<size_t, size_t> files_below(const std::string& folder) const;
  std::vector<std::string> folders_in(const std::string& folder) const;  // last parts of the names, sorted
  std::string shown(const std::string& name) const { return name.empty() ? root_ : root_ + "/" + name; }

  virtual Image read(size_t file) const = 0;                  // throws Error
  virtual std::vector<uint8_t> bytes(size_t file) const = 0;  // throws Error

 protected:
  std::string root_;
  std::vector<std::string> files_, folders_, notes_;
};

// Links are followed; a folder that was reached before is not entered again. Throws Error.
std::shared_ptr<const FileTree> open_folder_tree(const std::filesystem::path& root);

// A .tar or .tar.gz, read into memory once. Members with absolute names or ".." are left aside. Throws Error.
std::shared_ptr<const FileTree> open_archive_tree(const std::filesystem::path& path);

}  // namespace fovea
