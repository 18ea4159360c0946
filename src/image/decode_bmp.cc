// Windows and OS/2 bitmaps: 1, 4, 8, 16, 24 and 32 bits, RLE4, RLE8 and bit fields (the layouts that Pillow knows).
#include <cstring>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

enum Compression : uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3 };

struct Header {
  int width = 0, height = 0;
  bool top_down = false;
  uint32_t bits = 0, compression = kRaw;
  size_t pixels_at = 0;
  uint32_t red = 0, green = 0, blue = 0;  // masks of 16- and 32-bit pixels
  Palette palette;
};

void read_palette(const Source& source, size_t at, size_t entry, uint32_t colors, Header& header) {
  if (colors > 65536) source.fail("BMP", "its palette has {} colours", colors);
  for (uint32_t i = 0; i < std::min(colors, 256u); ++i) {
    const size_t p = at + i * entry;
    if (p + 3 > source.bytes.size()) source.fail("BMP", "the file is truncated in the palette");
    header.palette.rgb[i][0] = source.bytes[p + 2];
    header.palette.rgb[i][1] = source.bytes[p + 1];
    header.palette.rgb[i][2] = source.bytes[p];
  }
}

// Takes the masks at `at`, if they are of a known layout.
void read_masks(const Source& source, size_t at, bool with_alpha, Header& header) {
  struct Layout {
    uint32_t bits, red, green, blue;
    bool any_alpha;
    uint32_t alpha;
  };
  constexpr Layout kLayouts[] = {
      {32, 0xFF0000, 0xFF00, 0xFF, false, 0},          {32, 0xFF000000, 0xFF0000, 0xFF00, false, 0},
      {32, 0xFF000000, 0xFF00, 0xFF, false, 0},        {32, 0xFF000000, 0xFF0000, 0xFF00, false, 0xFF},
      {32, 0xFF, 0xFF00, 0xFF0000, false, 0xFF000000}, {32, 0xFF0000, 0xFF00, 0xFF, false, 0xFF000000},
      {32, 0xFF000000, 0xFF00, 0xFF, false, 0xFF0000}, {32, 0, 0, 0, false, 0},
      {24, 0xFF0000, 0xFF00, 0xFF, true, 0},           {16, 0xF800, 0x7E0, 0x1F, true, 0},
      {16, 0x7C00, 0x3E0, 0x1F, true, 0},
  };
  if (at + 12 > source.bytes.size()) source.fail("BMP", "the file is truncated in the header");
  header.red = le32(source.bytes, at);
  header.green = le32(source.bytes, at + 4);
  header.blue = le32(source.bytes, at + 8);
  const uint32_t alpha = with_alpha ? le32(source.bytes, at + 12) : 0;
  const auto fits = [&](const Layout& l) {
    return l.bits == header.bits && l.red == header.red && l.green == header.green && l.blue == header.blue &&
           (l.any_alpha || l.alpha == alpha);
  };
  if (std::none_of(std::begin(kLayouts), std::end(kLayouts), fits))
    source.fail("BMP", "bit fields of {} bits with masks {:x}, {:x}, {:x}, {:x} are not supported", header.bits,
                header.red, header.green, header.blue, alpha);
}

Header read_header(const Source& source) {
  const std::span<const uint8_t> b = source.bytes;
  constexpr size_t kInfo = 14;  // behind the file header
  Header header;
  header.pixels_at = le32(b, 10);
  const size_t size = le32(b, kInfo);
  if (size != 12 && size != 40 && size != 52 && size != 56 && size != 64 && size != 108 && size != 124)
    source.fail("BMP", "headers of {} bytes are not supported", size);
  if (kInfo + size > b.size()) source.fail("BMP", "the file is truncated in the header");

  const bool os2 = size == 12;
  int64_t width = 0, height = 0;
  uint32_t colors = 0;
  if (os2) {
    width = le16(b, 18);
    height = le16(b, 20);
    header.bits = le16(b, 24);
  } else {
    header.top_down = b[25] == 0xFF;
    width = le32(b, 18);
    height = header.top_down ? (int64_t{1} << 32) - le32(b, 22) : static_cast<int64_t>(le32(b, 22));
    header.bits = le16(b, 28);
    header.compression = le32(b, 30);
    colors = le32(b, 46);
  }
  source.check_size("BMP", width, height);
  header.width = static_cast<int>(width);
  header.height = static_cast<int>(height);
  const uint32_t bits = header.bits;
  if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32)
    source.fail("BMP", "{} bits a pixel are not supported", bits);

  size_t palette_at = kInfo + size;
  switch (header.compression) {
    case kRaw:
      header.red = 0x7C00;
      header.green = 0x3E0;
      header.blue = 0x1F;
      if (bits == 32) {
        header.red = 0xFF0000;
        header.green = 0xFF00;
        header.blue = 0xFF;
      }
      break;
    case kRle8:
    case kRle4:
      if (bits > 8) source.fail("BMP", "run lengths with {} bits a pixel are not supported", bits);
      break;
    case kBitFields:
      read_masks(source, kInfo + 40, size >= 56, header);
      if (bits == 32 && header.red == 0) {
        header.red = 0xFF0000;
        header.green = 0xFF00;
        header.blue = 0xFF;
      }
      if (size == 40) palette_at += 12;
      break;
    default: source.fail("BMP", "compression {} is not supported", header.compression);
  }
  if (bits <= 8) {
    if (colors == 0) colors = 1u << bits;
    const size_t entry = os2 ? 3 : 4;
    read_palette(source, palette_at, entry, colors, header);
    if (header.pixels_at == kInfo + size) header.pixels_at += entry * colors;  // some writers forget the palette
    if (header.pixels_at == 0) header.pixels_at = palette_at + entry * colors;
  } else if (header.pixels_at == 0) {
    header.pixels_at = palette_at;
  }
  return header;
}

// The eight bits, or the scaled five or six, that `mask` selects.
uint8_t field(uint32_t pixel, uint32_t mask) {
  if (mask == 0) return 0;
  const int shift = __builtin_ctz(mask);
  const uint32_t top = mask >> shift;
  return static_cast<uint8_t>(((pixel & mask) >> shift) * 255 / top);
}

void read_raw(const Source& source, const Header& header, Image& image) {
  const size_t used = (static_cast<size_t>(header.width) * header.bits + 7) / 8;
  const size_t stride = (static_cast<size_t>(header.width) * header.bits + 31) / 32 * 4;
  for (int i = 0; i < header.height; ++i) {
    const size_t at = header.pixels_at + static_cast<size_t>(i) * stride;
    if (at + used > source.bytes.size())
      source.fail("BMP", "the file is truncated: {} of {} rows are there", i, header.height);
    const uint8_t* p = source.bytes.data() + at;
    uint8_t* rgb = image.row(header.top_down ? i : header.height - 1 - i);
    for (int x = 0; x < header.width; ++x, rgb += 3) {
      const auto ux = static_cast<size_t>(x);
      switch (header.bits) {
        case 1: std::memcpy(rgb, header.palette.rgb[p[ux / 8] >> (7 - ux % 8) & 1], 3); break;
        case 4: std::memcpy(rgb, header.palette.rgb[p[ux / 2] >> (ux % 2 != 0 ? 0 : 4) & 15], 3); break;
        case 8: std::memcpy(rgb, header.palette.rgb[p[ux]], 3); break;
        case 24:
          rgb[0] = p[ux * 3 + 2];
          rgb[1] = p[ux * 3 + 1];
          rgb[2] = p[ux * 3];
          break;
        default: {
          const uint8_t* q = p + ux * header.bits / 8;
          uint32_t pixel = q[0] | static_cast<uint32_t>(q[1]) << 8;
          if (header.bits == 32) pixel |= static_cast<uint32_t>(q[2]) << 16 | static_cast<uint32_t>(q[3]) << 24;
          rgb[0] = field(pixel, header.red);
          rgb[1] = field(pixel, header.green);
          rgb[2] = field(pixel, header.blue);
        }
      }
    }
  }
}

// Palette indices of a run-length picture in file order. Pixels that deltas and line ends jump over are index 0.
std::vector<uint8_t> run_length_indices(const Source& source, const Header& header) {
  const std::span<const uint8_t> b = source.bytes;
  const bool nibbles = header.compression == kRle4;
  const auto width = static_cast<size_t>(header.width);
  const size_t total = width * static_cast<size_t>(header.height);
  std::vector<uint8_t> out;
  size_t at = header.pixels_at, x = 0;
  const auto append = [&](uint8_t v) {
    if (out.size() < total) out.push_back(v);
  };
  while (out.size() < total && at + 2 <= b.size()) {
    const size_t count = b[at];
    const uint8_t value = b[at + 1];
    at += 2;
    if (count != 0) {  // a run, cut at the end of the row
      const size_t n = std::min(count, width - std::min(width, x));
      for (size_t i = 0; i < n; ++i)
        append(!nibbles ? value : static_cast<uint8_t>(i % 2 == 0 ? value >> 4 : value & 15));
      x += n;
    } else if (value == 0) {  // end of the line
      while (out.size() % width != 0) out.push_back(0);
      x = 0;
    } else if (value == 1) {  // end of the picture
      break;
    } else if (value == 2) {  // jump right and up
      if (at + 2 > b.size()) break;
      const size_t jump = b[at] + b[at + 1] * width;
      at += 2;
      out.resize(std::min(total, out.size() + jump), 0);
      x = out.size() % width;
    } else {  // literal pixels, padded to an even position
      const size_t n = std::min<size_t>(total - out.size(), value);
      const size_t bytes = nibbles ? (n + 1) / 2 : n;
      if (at + bytes > b.size()) break;
      for (size_t i = 0; i < n; ++i)
        append(!nibbles ? b[at + i] : static_cast<uint8_t>(i % 2 == 0 ? b[at + i / 2] >> 4 : b[at + i / 2] & 15));
      at += bytes;
      x += value;
      at += at % 2;
    }
  }
  if (out.size() < total)
    source.fail("BMP", "the run-length data end after {} of {} pixels", out.size(), total);
  return out;
}

}  // namespace

Decoded decode_bmp(const Source& source) {
  const Header header = read_header(source);
  Decoded decoded;
  if (header.compression == kRle8 || header.compression == kRle4) {
    const std::vector<uint8_t> indices = run_length_indices(source, header);
    decoded.image = Image(header.width, header.height, 3);
    const auto width = static_cast<size_t>(header.width);
    for (int i = 0; i < header.height; ++i) {
      uint8_t* rgb = decoded.image.row(header.top_down ? i : header.height - 1 - i);
      for (size_t x = 0; x < width; ++x, rgb += 3)
        std::memcpy(rgb, header.palette.rgb[indices[static_cast<size_t>(i) * width + x]], 3);
    }
  } else {
    const uint64_t stride = (static_cast<uint64_t>(header.width) * header.bits + 31) / 32 * 4;
    if (stride * static_cast<uint64_t>(header.height) / 2 > source.bytes.size())  // before memory is taken for it
      source.fail("BMP", "the file is truncated: {}x{} pixels need more than its {} bytes", header.width, header.height,
                  source.bytes.size());
    decoded.image = Image(header.width, header.height, 3);
    read_raw(source, header, decoded.image);
  }
  return decoded;
}

}  // namespace fovea::detail
