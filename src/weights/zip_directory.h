// Where a zip archive's entries lie in the file (APPNOTE.TXT 6.3.9, sections 4.3.7, 4.3.12 to 4.3.16), which libzip does not tell.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

namespace fovea {

// The bytes of every entry that is stored without compression, by name. What is irregular in any way is left out: the caller reads
// and judges such entries with libzip.
std::unordered_map<std::string, std::span<const std::byte>> stored_zip_entries(std::span<const std::byte> archive);

}  // namespace fovea
