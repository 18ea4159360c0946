// The first picture of a TIFF with libtiff: 1 to 16-bit and 32-bit grey, palettes, RGB, CMYK and YCbCr, in strips or
// tiles, interleaved or in planes. Samples become 8 bits as in Pillow: 16-bit colour keeps its high byte, deeper grey
// saturates at 255.
#include <cstring>
#include <memory>
#include <string>

#include <tiffio.h>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

struct TiffInput {
  std::span<const uint8_t> bytes;
  size_t at = 0;
  std::string message;        // libtiff's first complaint
  bool palette_lost = false;  // it would go on in grey
};

TiffInput& input_of(thandle_t handle) { return *static_cast<TiffInput*>(handle); }

tmsize_t on_read(thandle_t handle, void* to, tmsize_t count) {
  TiffInput& input = input_of(handle);
  if (count <= 0 || input.at >= input.bytes.size()) return 0;
  const size_t n = std::min(static_cast<size_t>(count), input.bytes.size() - input.at);
  std::memcpy(to, input.bytes.data() + input.at, n);
  input.at += n;
  return static_cast<tmsize_t>(n);
}

toff_t on_seek(thandle_t handle, toff_t offset, int whence) {
  TiffInput& input = input_of(handle);
  const toff_t base = whence == SEEK_CUR ? input.at : whence == SEEK_END ? input.bytes.size() : 0;
  input.at = base + offset;
  return input.at;
}

int on_error(TIFF*, void* user, const char*, const char* format, va_list args) {
  auto& message = static_cast<TiffInput*>(user)->message;
  if (message.empty()) {
    char text[256];
    std::vsnprintf(text, sizeof(text), format, args);
    message = text;
  }
  return 1;  // not for the process-wide handler
}

int on_warning(TIFF*, void* user, const char*, const char* format, va_list args) {
  char text[256];
  std::vsnprintf(text, sizeof(text), format, args);
  if (std::strstr(text, "ColorMap") != nullptr) static_cast<TiffInput*>(user)->palette_lost = true;
  return 1;
}

struct CloseTiff {
  void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Handle = std::unique_ptr<TIFF, CloseTiff>;

Handle open(TiffInput& input) {
  const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(TIFFOpenOptionsAlloc(),
                                                                             TIFFOpenOptionsFree);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), on_error, &input);
  TIFFOpenOptionsSetWarningHandlerExtR(options.get(), on_warning, &input);
  return Handle(TIFFClientOpenExt(
      "", "rm", &input, on_read, [](thandle_t, void*, tmsize_t) -> tmsize_t { return 0; }, on_seek,
      [](thandle_t) { return 0; }, [](thandle_t handle) -> toff_t { return input_of(handle).bytes.size(); },
      [](thandle_t, void**, toff_t*) { return 0; }, [](thandle_t, void*, toff_t) {}, options.get()));
}

struct Layout {
  uint32_t width = 0, height = 0;
  uint16_t photometric = 0, bits = 1, samples = 1, planar = PLANARCONFIG_CONTIG, format = SAMPLEFORMAT_UINT;
  uint16_t compression = COMPRESSION_NONE, orientation = 1, extra = 0xFFFF;  // extra: the first extra sample's meaning
  bool tiled = false;
  Palette palette;
};

uint16_t field_or(TIFF* tiff, uint32_t tag, uint16_t otherwise) {
  uint16_t value = 0;
  return TIFFGetFieldDefaulted(tiff, tag, &value) == 1 ? value : otherwise;
}

Layout layout_of(TIFF* tiff, const Source& source) {
  Layout l;
  if (TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &l.width) != 1 || TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &l.height) != 1)
    source.fail("TIFF", "it has no size");
  source.check_size("TIFF", l.width, l.height);
  l.photometric = field_or(tiff, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISWHITE);
  l.bits = field_or(tiff, TIFFTAG_BITSPERSAMPLE, 1);
  l.samples = field_or(tiff, TIFFTAG_SAMPLESPERPIXEL, 1);
  l.planar = field_or(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
  l.format = field_or(tiff, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
  l.compression = field_or(tiff, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
  l.orientation = field_or(tiff, TIFFTAG_ORIENTATION, 1);
  l.tiled = TIFFIsTiled(tiff) != 0;
  uint16_t count = 0, *kinds = nullptr;
  if (TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &count, &kinds) == 1 && count > 0) l.extra = kinds[0];
  if (l.photometric == PHOTOMETRIC_PALETTE) {
    uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
    if (TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue) != 1 || l.bits > 8)
      source.fail("TIFF", "its palette is missing");
    for (int i = 0; i < 1 << l.bits; ++i) {
      l.palette.rgb[i][0] = static_cast<uint8_t>(red[i] / 256);
      l.palette.rgb[i][1] = static_cast<uint8_t>(green[i] / 256);
      l.palette.rgb[i][2] = static_cast<uint8_t>(blue[i] / 256);
    }
  }
  return l;
}

// Samples that a colour needs; 0 when this kind of picture is not supported.
int color_samples(const Layout& l) {
  const bool whole = l.format == SAMPLEFORMAT_UINT || l.format == SAMPLEFORMAT_VOID;
  const bool small = l.bits == 1 || l.bits == 2 || l.bits == 4 || l.bits == 8;
  switch (l.photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
      if (whole && small && (l.bits == 8 || l.samples == 1)) return 1;
      if (l.samples != 1) return 0;
      if (l.format == SAMPLEFORMAT_IEEEFP) return l.bits == 32 ? 1 : 0;
      return l.bits == 8 || l.bits == 12 || l.bits == 16 || l.bits == 32 ? 1 : 0;
    case PHOTOMETRIC_PALETTE: return whole && small && (l.bits == 8 || l.samples == 1) ? 1 : 0;
    case PHOTOMETRIC_YCBCR:
      if (l.samples == 1) return whole && l.bits == 8 ? 1 : 0;
      [[fallthrough]];
    case PHOTOMETRIC_RGB: return whole && (l.bits == 8 || l.bits == 16) && l.samples >= 3 ? 3 : 0;
    case PHOTOMETRIC_SEPARATED: return whole && (l.bits == 8 || l.bits == 16) && l.samples >= 4 ? 4 : 0;
    default: return 0;
  }
}

// One sample of 8 bits (high byte of 16).
uint8_t byte_sample(const uint8_t* row, size_t i, int bits) {
  if (bits == 8) return row[i];
  uint16_t v = 0;
  std::memcpy(&v, row + 2 * i, sizeof(v));
  return static_cast<uint8_t>(v >> 8);
}

// Sample i of a row of packed samples of 1, 2 or 4 bits.
uint32_t packed_sample(const uint8_t* row, size_t i, uint32_t bits) {
  const size_t bit = i * bits;
  return row[bit / 8] >> (8 - bits - bit % 8) & ((1u << bits) - 1);
}

// Grey deeper than 8 bits, cut to 0..255; white-is-zero is not inverted there.
uint8_t deep_grey(const Layout& l, const uint8_t* row, size_t i) {
  if (l.bits == 12) {
    const uint8_t* p = row + i / 2 * 3;
    return clip8(i % 2 == 0 ? p[0] << 4 | p[1] >> 4 : (p[1] & 15) << 8 | p[2]);
  }
  if (l.bits == 16) {
    uint16_t v = 0;
    std::memcpy(&v, row + 2 * i, sizeof(v));
    return l.format == SAMPLEFORMAT_INT ? clip8(static_cast<int16_t>(v)) : clip8(v);
  }
  if (l.format == SAMPLEFORMAT_IEEEFP) {
    float v = 0;
    std::memcpy(&v, row + 4 * i, sizeof(v));
    return v >= 255.0f ? uint8_t{255} : v > 0.0f ? static_cast<uint8_t>(v) : uint8_t{0};
  }
  int32_t v = 0;
  std::memcpy(&v, row + 4 * i, sizeof(v));
  return clip8(v);
}

uint8_t grey_at(const Layout& l, const uint8_t* row, size_t pixel) {
  if (l.bits > 8) return deep_grey(l, row, pixel);
  const uint32_t max = (1u << l.bits) - 1;
  const uint32_t v = l.bits == 8 ? row[pixel * l.samples] : packed_sample(row, pixel, l.bits) * 255 / max;
  return static_cast<uint8_t>(l.photometric == PHOTOMETRIC_MINISWHITE ? 255 - v : v);
}

void put_unpremultiplied(uint8_t* rgb, const uint8_t* rgba) {
  const int alpha = rgba[3];
  for (int c = 0; c < 3; ++c) rgb[c] = alpha == 0 ? uint8_t{0} : alpha == 255 ? rgba[c] : clip8(rgba[c] * 255 / alpha);
}

// `row` holds `width` pixels of interleaved samples.
void convert_row(const Layout& l, const uint8_t* row, size_t width, uint8_t* rgb) {
  for (size_t x = 0; x < width; ++x, rgb += 3) {
    const size_t first = x * l.samples;
    switch (l.photometric) {
      case PHOTOMETRIC_PALETTE:
        std::memcpy(rgb, l.palette.rgb[l.bits == 8 ? row[first] : packed_sample(row, x, l.bits)], 3);
        break;
      case PHOTOMETRIC_SEPARATED:
        put_cmyk(rgb, byte_sample(row, first, l.bits), byte_sample(row, first + 1, l.bits),
                 byte_sample(row, first + 2, l.bits), byte_sample(row, first + 3, l.bits));
        break;
      case PHOTOMETRIC_RGB:
      case PHOTOMETRIC_YCBCR: {
        if (l.samples == 1) {
          put_grey(rgb, row[first]);
          break;
        }
        uint8_t rgba[4] = {};
        for (size_t c = 0; c < 3; ++c) rgba[c] = byte_sample(row, first + c, l.bits);
        if (l.samples > 3) rgba[3] = byte_sample(row, first + 3, l.bits);
        if (l.samples > 3 && l.extra == EXTRASAMPLE_ASSOCALPHA)
          put_unpremultiplied(rgb, rgba);
        else
          std::memcpy(rgb, rgba, 3);
        break;
      }
      default: put_grey(rgb, grey_at(l, row, x)); break;
    }
  }
}

[[noreturn]] void fail(const Source& source, const TiffInput& input) {
  source.fail("TIFF", "{}", input.message.empty() ? "the pixels are truncated or broken" : input.message.c_str());
}

// Strips and tiles alike: blocks of `width` x `height` pixels. Planes are read one after the other and interleaved.
void read_blocks(TIFF* tiff, const Layout& l, const Source& source, const TiffInput& input, Image& image) {
  uint32_t width = l.width, height = 0;
  if (l.tiled) {
    TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &width);
    TIFFGetField(tiff, TIFFTAG_TILELENGTH, &height);
  } else {
    TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &height);
    height = std::min(height, l.height);
  }
  source.check_size("TIFF", width, height);
  const bool separate = l.planar == PLANARCONFIG_SEPARATE && l.samples > 1;
  const uint64_t sample_bits = uint64_t{l.bits} * (separate ? 1 : l.samples);
  const size_t row_bytes = (width * sample_bits + 7) / 8;
  const auto block_bytes = static_cast<uint64_t>(l.tiled ? TIFFTileSize64(tiff) : TIFFVStripSize64(tiff, height));
  if (block_bytes != uint64_t{row_bytes} * height) source.fail("TIFF", "the sizes of its strips or tiles disagree");
  // Nothing compresses better than this; a file that claims more has no such data.
  constexpr uint64_t kMaxRatio = 20000;
  if (block_bytes / kMaxRatio > source.bytes.size()) source.fail("TIFF", "the pixels are truncated");

  const size_t sample_bytes = l.bits / 8;  // of planes, which have 8 or 16 bits
  std::vector<uint8_t> block(block_bytes), interleaved;
  if (separate) interleaved.resize(block_bytes * l.samples);
  const auto read_block = [&](uint32_t x, uint32_t y, uint16_t plane, uint64_t needed) {
    const auto size = static_cast<tmsize_t>(block_bytes);
    const tmsize_t got = l.tiled ? TIFFReadEncodedTile(tiff, TIFFComputeTile(tiff, x, y, 0, plane), block.data(), size)
                                 : TIFFReadEncodedStrip(tiff, TIFFComputeStrip(tiff, y, plane), block.data(), size);
    if (got < 0 || static_cast<uint64_t>(got) < needed) fail(source, input);
  };
  for (uint32_t y = 0; y < l.height; y += height) {
    const uint32_t rows = std::min(height, l.height - y);
    for (uint32_t x = 0; x < l.width; x += width) {
      const uint64_t needed = uint64_t{row_bytes} * rows;
      for (uint16_t plane = 0; plane < (separate ? l.samples : 1); ++plane) {
        read_block(x, y, plane, needed);
        if (!separate) break;
        const size_t pixels = static_cast<size_t>(width) * rows;
        for (size_t i = 0; i < pixels; ++i)
          std::memcpy(interleaved.data() + (i * l.samples + plane) * sample_bytes, block.data() + i * sample_bytes,
                      sample_bytes);
      }
      const uint8_t* from = separate ? interleaved.data() : block.data();
      const size_t stride = separate ? row_bytes * l.samples : row_bytes;
      for (uint32_t r = 0; r < rows; ++r)
        convert_row(l, from + r * stride, std::min(width, l.width - x),
                    image.row(static_cast<int>(y + r)) + size_t{3} * x);
    }
  }
}

// Subsampled YCbCr is left to libtiff.
void read_as_rgba(TIFF* tiff, const Source& source, const TiffInput& input, Image& image) {
  std::vector<uint32_t> raster(image.pixels.size() / 3);
  if (TIFFSetField(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT) != 1 ||
      TIFFReadRGBAImageOriented(tiff, static_cast<uint32_t>(image.width), static_cast<uint32_t>(image.height),
                                raster.data(), ORIENTATION_TOPLEFT, 1) != 1)
    fail(source, input);
  uint8_t* rgb = image.pixels.data();
  for (const uint32_t pixel : raster) {
    rgb[0] = static_cast<uint8_t>(TIFFGetR(pixel));
    rgb[1] = static_cast<uint8_t>(TIFFGetG(pixel));
    rgb[2] = static_cast<uint8_t>(TIFFGetB(pixel));
    rgb += 3;
  }
}

}  // namespace

Decoded decode_tiff(const Source& source) {
  TiffInput input{source.bytes, 0, {}, false};
  const Handle tiff = open(input);
  if (tiff == nullptr) fail(source, input);
  if (input.palette_lost) source.fail("TIFF", "its palette is truncated or broken");
  Layout layout = layout_of(tiff.get(), source);
  if (layout.compression == COMPRESSION_OJPEG) layout.photometric = PHOTOMETRIC_YCBCR;
  const int colors = color_samples(layout);
  const bool planes_fit = layout.planar != PLANARCONFIG_SEPARATE || layout.samples == 1 || layout.bits % 8 == 0;
  if (colors == 0 || !planes_fit || layout.samples > 16)
    source.fail("TIFF", "{} samples of {} bits with photometric interpretation {} are not supported", layout.samples,
                layout.bits, layout.photometric);
  if (TIFFIsCODECConfigured(layout.compression) == 0)
    source.fail("TIFF", "compression {} is not supported", layout.compression);

  Decoded decoded{Image(static_cast<int>(layout.width), static_cast<int>(layout.height), 3), layout.orientation};
  if (layout.photometric == PHOTOMETRIC_YCBCR && layout.samples > 1) {
    if (layout.compression == COMPRESSION_JPEG && layout.planar == PLANARCONFIG_CONTIG) {
      TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
      read_blocks(tiff.get(), layout, source, input, decoded.image);
    } else {
      read_as_rgba(tiff.get(), source, input, decoded.image);
    }
  } else {
    read_blocks(tiff.get(), layout, source, input, decoded.image);
  }
  return decoded;
}

}  // namespace fovea::detail
