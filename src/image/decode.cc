#include "image/decode.h"

#include <algorithm>
#include <cstring>
#include <fstream>

#include "image/decode_formats.h"

namespace fovea {
namespace detail {

void Source::check_size(std::string_view format, int64_t width, int64_t height) const {
  if (width < 1 || height < 1) fail(format, "the picture is empty ({}x{} pixels)", width, height);
  constexpr int64_t kMaxSide = int64_t{1} << 31;
  if (width >= kMaxSide || height >= kMaxSide || width > max_pixels / height)
    fail(format, "{}x{} pixels are more than the limit of {} (a decompression bomb?)", width, height, max_pixels);
}

}  // namespace detail

namespace {

using detail::Source;
using Decoder = detail::Decoded (*)(const Source&);

Decoder decoder_of(std::span<const uint8_t> bytes) {
  using detail::starts_with;
  using std::string_view;
  if (starts_with(bytes, "\xff\xd8\xff")) return detail::decode_jpeg;
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) return detail::decode_png;
  if (starts_with(bytes, "RIFF") && bytes.size() >= 12 && starts_with(bytes.subspan(8), "WEBP"))
    return detail::decode_webp;
  if (starts_with(bytes, string_view("II*\0", 4)) || starts_with(bytes, string_view("MM\0*", 4)) ||
      starts_with(bytes, string_view("II+\0", 4)) || starts_with(bytes, string_view("MM\0+", 4)))
    return detail::decode_tiff;
  if (starts_with(bytes, "GIF87a") || starts_with(bytes, "GIF89a")) return detail::decode_gif;
  if (starts_with(bytes, "BM") && bytes.size() >= 18) return detail::decode_bmp;
  if (bytes.size() >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
      std::strchr(" \t\n\v\f\r#", bytes[2]) != nullptr && bytes[2] != 0)
    return detail::decode_pnm;
  return nullptr;
}

// out(x, y) = in(sx, sy) with (sx, sy) = origin + x * across + y * down, as offsets in bytes.
Image rearranged(const Image& in, int width, int height, int64_t origin, int64_t across, int64_t down) {
  Image out(width, height, 3);
  uint8_t* q = out.pixels.data();
  for (int y = 0; y < height; ++y) {
    const uint8_t* p = in.pixels.data() + origin + y * down;
    for (int x = 0; x < width; ++x, q += 3) std::memcpy(q, p + x * across, 3);
  }
  return out;
}

Image oriented(Image image, int orientation) {
  const int w = image.width, h = image.height;
  const int64_t pixel = 3, row = int64_t{3} * w;
  const int64_t right = (w - 1) * pixel, bottom = (h - 1) * row;
  switch (orientation) {
    case 2: return rearranged(image, w, h, right, -pixel, row);
    case 3: return rearranged(image, w, h, right + bottom, -pixel, -row);
    case 4: return rearranged(image, w, h, bottom, pixel, -row);
    case 5: return rearranged(image, h, w, 0, row, pixel);
    case 6: return rearranged(image, h, w, bottom, -row, pixel);
    case 7: return rearranged(image, h, w, right + bottom, -row, -pixel);
    case 8: return rearranged(image, h, w, right, row, -pixel);
    default: return image;
  }
}

}  // namespace

bool looks_like_image(std::span<const uint8_t> bytes) { return decoder_of(bytes) != nullptr; }

Image decode_image(std::span<const uint8_t> bytes, std::string_view name, const DecodeOptions& options) {
  require(!bytes.empty(), "cannot decode {}: it is empty", name);
  const Decoder decoder = decoder_of(bytes);
  require(decoder != nullptr,
          "cannot decode {}: its first bytes are those of no known format (JPEG, PNG, WebP, TIFF, GIF, BMP, PPM)", name);
  detail::Decoded decoded = decoder({bytes, name, options.max_pixels});
  return oriented(std::move(decoded.image), options.apply_orientation ? decoded.orientation : 1);
}

Image read_image(const std::filesystem::path& path, const DecodeOptions& options) {
  std::error_code error;
  require(!std::filesystem::is_directory(path, error), "cannot read {}: it is a folder", path.string());
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  require(file.is_open(), "cannot read {}: {}", path.string(), std::strerror(errno));
  const std::streamoff size = file.tellg();
  require(size >= 0, "cannot read {}: its size is unknown", path.string());
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), size);
  require(file.gcount() == size, "cannot read {}: got {} of {} bytes", path.string(), file.gcount(), size);
  return decode_image(bytes, path.string(), options);
}

}  // namespace fovea
