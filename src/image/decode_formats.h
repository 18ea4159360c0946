// One decoder per format, for decode.cc. Each returns RGB before the orientation is applied.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/check.h"
#include "image/image.h"

namespace fovea::detail {

struct Source {
  std::span<const uint8_t> bytes;
  std::string_view name;
  int64_t max_pixels;

  // Throws Error: "cannot decode <name>: <format>: <reason>".
  template <class... Args>
  [[noreturn]] void fail(std::string_view format, fmt::format_string<Args...> reason, Args&&... args) const {
    throw Error(fmt::format("cannot decode {}: {}: {}", name, format,
                            fmt::format(reason, std::forward<Args>(args)...)));
  }

  // Refuses empty pictures and those above max_pixels.
  void check_size(std::string_view format, int64_t width, int64_t height) const;
};

struct Decoded {
  Image image;
  int orientation = 1;  // EXIF: 1 upright, 2 mirrored, ... 8 to be turned left
};

Decoded decode_jpeg(const Source& source);
Decoded decode_png(const Source& source);
Decoded decode_webp(const Source& source);
Decoded decode_tiff(const Source& source);
Decoded decode_gif(const Source& source);
Decoded decode_bmp(const Source& source);
Decoded decode_pnm(const Source& source);

// Orientation 1..8 in an EXIF block ("Exif\0\0" in front or not) or in an XMP packet; 0 when there is none or it is broken.
int orientation_of_exif(std::span<const uint8_t> exif);
int orientation_of_xmp(std::string_view xmp);

// Bounds-checked little- and big-endian reads; 0 past the end.
inline uint32_t byte_at(std::span<const uint8_t> b, size_t i) { return i < b.size() ? b[i] : 0u; }
inline uint32_t le16(std::span<const uint8_t> b, size_t i) { return byte_at(b, i) | byte_at(b, i + 1) << 8; }
inline uint32_t le32(std::span<const uint8_t> b, size_t i) { return le16(b, i) | le16(b, i + 2) << 16; }
inline uint32_t be16(std::span<const uint8_t> b, size_t i) { return byte_at(b, i) << 8 | byte_at(b, i + 1); }
inline uint32_t be32(std::span<const uint8_t> b, size_t i) { return be16(b, i) << 16 | be16(b, i + 2); }

inline bool starts_with(std::span<const uint8_t> b, std::string_view prefix) {
  return b.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), b.begin(), [](char c, uint8_t v) {
           return static_cast<uint8_t>(c) == v;
         });
}

inline uint8_t clip8(int v) { return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v); }

inline void put_grey(uint8_t* rgb, uint8_t v) { rgb[0] = rgb[1] = rgb[2] = v; }

// Inks of 0 (none) to 255 (full) to RGB as Pillow does without a colour profile.
inline void put_cmyk(uint8_t* rgb, int c, int m, int y, int k) {
  const int white = 255 - k;
  const auto ink = [white](int v) {
    const int product = v * white + 128;
    return clip8(white - (((product >> 8) + product) >> 8));
  };
  rgb[0] = ink(c);
  rgb[1] = ink(m);
  rgb[2] = ink(y);
}

// 256 RGB triples; entries that a file leaves out are black.
struct Palette {
  uint8_t rgb[256][3] = {};
};

}  // namespace fovea::detail
