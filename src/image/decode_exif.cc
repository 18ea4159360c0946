// The orientation tag of EXIF (JEITA CP-3451, 4.6.4) and of XMP.
#include <algorithm>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

constexpr uint32_t kOrientationTag = 0x112;

// The first value of an integer field of TIFF type `type`, or 0.
int64_t first_integer(std::span<const uint8_t> tiff, bool little, uint32_t type, uint32_t count, size_t entry) {
  const auto u16 = [&](size_t i) { return little ? le16(tiff, i) : be16(tiff, i); };
  const auto u32 = [&](size_t i) { return little ? le32(tiff, i) : be32(tiff, i); };
  const uint64_t size = type == 6 ? 1u : type == 3 || type == 8 ? 2u : type == 4 || type == 9 || type == 13 ? 4u : 0u;
  if (size == 0 || count == 0) return 0;
  size_t at = entry + 8;
  if (size * count > 4) {
    at = u32(at);
    if (at + size * count > tiff.size()) return 0;
  }
  if (size == 1) return static_cast<int8_t>(byte_at(tiff, at));
  if (size == 2) return type == 8 ? static_cast<int16_t>(u16(at)) : static_cast<int64_t>(u16(at));
  return type == 9 ? static_cast<int32_t>(u32(at)) : static_cast<int64_t>(u32(at));
}

}  // namespace

int orientation_of_exif(std::span<const uint8_t> exif) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  for (int i = 0; i < 2 && starts_with(exif, kPrefix); ++i) exif = exif.subspan(kPrefix.size());
  const bool little = starts_with(exif, std::string_view("II", 2));
  if (exif.size() < 10 || (!little && !starts_with(exif, std::string_view("MM", 2)))) return 0;
  const auto u16 = [&](size_t i) { return little ? le16(exif, i) : be16(exif, i); };
  if (u16(2) != 42) return 0;
  const size_t directory = little ? le32(exif, 4) : be32(exif, 4);
  const uint32_t entries = u16(directory);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + size_t{12} * i;
    if (entry + 12 > exif.size()) return 0;
    if (u16(entry) != kOrientationTag) continue;
    const uint32_t count = little ? le32(exif, entry + 4) : be32(exif, entry + 4);
    const int64_t value = first_integer(exif, little, u16(entry + 2), count, entry);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 0;
}

int orientation_of_xmp(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    if (rest.starts_with("=\""))
      rest.remove_prefix(2);
    else if (rest.starts_with(">"))
      rest.remove_prefix(1);
    else
      continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] >= '1' && rest[0] <= '8' ? rest[0] - '0' : 1;
  }
  return 0;
}

}  // namespace fovea::detail
