// Files to RGB pictures: JPEG, PNG, WebP, TIFF, GIF (first frame), BMP, PPM/PGM/PBM, told apart by their first bytes and
// never by their name. The result is that of Pillow's ImageOps.exif_transpose(Image.open(f)).convert("RGB").
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "image/image.h"

namespace fovea {

struct DecodeOptions {
  int64_t max_pixels = 2 * int64_t{89478485};  // Pillow's limit; larger pictures are refused before memory is taken
  bool apply_orientation = true;               // turn and mirror as EXIF's orientation tag says
};

// The picture in `bytes` as RGB (channels = 3). `name` is used in messages only.
// Throws Error that names the picture and the reason when it is truncated, broken, too large or of an unknown format.
Image decode_image(std::span<const uint8_t> bytes, std::string_view name, const DecodeOptions& options = {});

// Reads and decodes a file. Throws Error as above, and when the file cannot be read.
Image read_image(const std::filesystem::path& path, const DecodeOptions& options = {});

// Whether the first bytes are those of a format that decode_image knows.
bool looks_like_image(std::span<const uint8_t> bytes);

}  // namespace fovea
