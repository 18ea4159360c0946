// Entries of a zip archive in memory, read with limits: nothing encrypted, nothing that unpacks to far more than the file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "weights/mapped_file.h"

namespace fovea {

class ZipArchive {
 public:
  // Throws Error when the directory of the archive cannot be read, names an entry twice, or gives two entries the same bytes.
  explicit ZipArchive(FileBytes file);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  const std::string& path() const { return file_.path; }
  const std::vector<std::string>& names() const { return names_; }  // in the directory's order
  bool has(const std::string& name) const;
  // Unpacks an entry, or finds it in the file where it is stored as it is, and verifies its checksum. All reads of one archive
  // together may take twice the file's size (and a little for small files). Throws Error naming the entry.
  FilePart read(const std::string& name);

 private:
  struct Handle;
  FileBytes file_;
  std::unique_ptr<Handle> handle_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::span<const std::byte>> stored_;
  uint64_t budget_;
};

}  // namespace fovea
