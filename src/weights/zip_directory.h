// Where a zip archive's entries lie in the file (APPNOTE.TXT 6.3.9, sections 4.3.7, 4.3.12 to 4.3.16), which libzip does not tell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace fovea {

struct ZipDirectory {
  struct Range {
    uint64_t begin, end;  // of the file, from the entry's local header to the end of its data
    std::string name;
  };
  std::unordered_map<std::string, std::span<const std::byte>> stored;  // the bytes of every entry that is not compressed, by name
  std::vector<Range> ranges;                                           // of all entries, by where they begin
};

// False when an end record in the archive claims more entries than so many bytes can describe: libzip would take memory for them. It tries
// all records that lie where one may, and so does this.
bool zip_counts_fit(std::span<const std::byte> archive);

// What is irregular in any way is left out: the caller reads and judges such entries with libzip.
ZipDirectory read_zip_directory(std::span<const std::byte> archive);

}  // namespace fovea
