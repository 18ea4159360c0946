// PNG with libpng; of an animated one the default picture. Alpha is dropped, 16-bit colour keeps its high byte and 16-bit
// grey saturates at 255, as in Pillow.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

#include <png.h>
#include <zlib.h>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

// Everything that must outlive a longjmp out of libpng.
struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const uint8_t> rest;
  char message[128] = {};
  int64_t max_pixels = 0;
  uint32_t width = 0, height = 0;
  int bit_depth = 0, color_type = 0, interlace = 0;
  bool too_large = false;
  Palette palette;
  std::vector<uint8_t> samples;      // one row, or the whole picture when it is interlaced
  std::vector<uint8_t*> row_starts;  // interlaced only
  Image image;

  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

void on_error(png_structp png, png_const_charp message) {
  auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader.message, sizeof(reader.message), "%s", message);
  png_longjmp(png, 1);
}

void on_warning(png_structp png, png_const_charp message) {
  if (std::strstr(message, "incorrect data check") != nullptr) png_error(png, "the data's checksum is wrong");
}

void on_read(png_structp png, png_bytep to, size_t count) {
  auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
  if (count > reader.rest.size()) png_error(png, "the file is truncated");
  std::memcpy(to, reader.rest.data(), count);
  reader.rest = reader.rest.subspan(count);
}

// `samples` holds width pixels of one row after the transforms that read_pixels asks for.
void convert_row(const PngReader& reader, const uint8_t* samples, uint8_t* rgb) {
  const int type = reader.color_type, depth = reader.bit_depth;
  const int grey_step = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
  for (uint32_t x = 0; x < reader.width; ++x, rgb += 3) {
    switch (type) {
      case PNG_COLOR_TYPE_GRAY:
        if (depth == 16) {
          put_grey(rgb, samples[0] != 0 ? uint8_t{255} : samples[1]);
          samples += 2;
        } else {
          put_grey(rgb, static_cast<uint8_t>(*samples++ * grey_step));
        }
        break;
      case PNG_COLOR_TYPE_PALETTE: std::memcpy(rgb, reader.palette.rgb[*samples++], 3); break;
      case PNG_COLOR_TYPE_GRAY_ALPHA:
        put_grey(rgb, samples[0]);
        samples += 2;
        break;
      default:
        std::memcpy(rgb, samples, 3);
        samples += type == PNG_COLOR_TYPE_RGB_ALPHA ? 4 : 3;
        break;
    }
  }
}

// False when libpng gave up. No object with a destructor lives in this frame.
bool read_pixels(PngReader& reader) {
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  reader.info = reader.png != nullptr ? png_create_info_struct(reader.png) : nullptr;
  if (reader.info == nullptr) return false;
  png_structp png = reader.png;
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_read_fn(png, &reader, on_read);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);  // profiles, texts: none has a say here
  // The checksum of the pixels' own stream decides, so that a file whose chunk sums are wrong still shows.
  png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  png_read_info(png, reader.info);
  png_get_IHDR(png, reader.info, &reader.width, &reader.height, &reader.bit_depth, &reader.color_type,
               &reader.interlace, nullptr, nullptr);
  if (static_cast<int64_t>(reader.width) > reader.max_pixels / static_cast<int64_t>(reader.height)) {
    reader.too_large = true;
    return false;
  }
  png_colorp colors = nullptr;
  int count = 0;
  if (png_get_PLTE(png, reader.info, &colors, &count) != 0)
    for (int i = 0; i < count && i < 256; ++i) {
      reader.palette.rgb[i][0] = colors[i].red;
      reader.palette.rgb[i][1] = colors[i].green;
      reader.palette.rgb[i][2] = colors[i].blue;
    }
  if (reader.bit_depth < 8) png_set_packing(png);
  if (reader.bit_depth == 16 && reader.color_type != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, reader.info);

  const size_t row_bytes = png_get_rowbytes(png, reader.info);
  constexpr size_t kMaxRatio = 8 * 1032;  // unpacking one-bit samples times deflate's best
  if (row_bytes * reader.height / kMaxRatio > reader.rest.size())
    png_error(png, "the file is truncated: so many pixels cannot be in so few bytes");
  reader.image = Image(static_cast<int>(reader.width), static_cast<int>(reader.height), 3);
  if (reader.interlace == PNG_INTERLACE_NONE) {
    reader.samples.resize(row_bytes);
    for (int y = 0; y < reader.image.height; ++y) {
      png_read_row(png, reader.samples.data(), nullptr);
      convert_row(reader, reader.samples.data(), reader.image.row(y));
    }
  } else {
    reader.samples.resize(row_bytes * reader.height);
    reader.row_starts.resize(reader.height);
    for (size_t y = 0; y < reader.height; ++y) reader.row_starts[y] = reader.samples.data() + y * row_bytes;
    png_read_image(png, reader.row_starts.data());
    for (int y = 0; y < reader.image.height; ++y)
      convert_row(reader, reader.row_starts[static_cast<size_t>(y)], reader.image.row(y));
  }
  return true;
}

// zlib data of at most kMaxText bytes when inflated; empty when they are broken or longer.
std::string inflated(std::span<const uint8_t> data) {
  constexpr size_t kMaxText = size_t{1} << 20;
  std::string text(kMaxText, '\0');
  uLongf size = kMaxText;
  if (uncompress(reinterpret_cast<Bytef*>(text.data()), &size, data.data(), data.size()) != Z_OK) size = 0;
  text.resize(size);
  return text;
}

// ImageMagick's "Raw profile type exif": a line with the name, one with the length, then hexadecimal digits.
int orientation_of_raw_profile(std::string_view text) {
  for (int lines = 0; lines < 3; ++lines) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return 0;
    text.remove_prefix(end + 1);
  }
  std::vector<uint8_t> exif;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) continue;
    if (high >= 0) exif.push_back(static_cast<uint8_t>(high * 16 + digit));
    high = high >= 0 ? -1 : digit;
  }
  return orientation_of_exif(exif);
}

// Orientation from a text chunk's data, `type` being its name; 0 when it is about something else.
int orientation_of_text(std::string_view type, std::span<const uint8_t> data) {
  const std::string_view all(reinterpret_cast<const char*>(data.data()), data.size());
  const size_t end = all.find('\0');
  if (end == std::string_view::npos) return 0;
  const std::string_view key = all.substr(0, end);
  if (key == "Raw profile type exif" && type == "tEXt") return orientation_of_raw_profile(all.substr(end + 1));
  if (key == "Raw profile type exif" && type == "zTXt" && data.size() > end + 2)
    return orientation_of_raw_profile(inflated(data.subspan(end + 2)));
  if (key != "XML:com.adobe.xmp" || type != "iTXt" || data.size() < end + 3) return 0;
  const bool compressed = data[end + 1] != 0;
  size_t at = end + 3;
  for (int strings = 0; strings < 2; ++strings) {  // language, translated key
    const size_t stop = all.find('\0', at);
    if (stop == std::string_view::npos) return 0;
    at = stop + 1;
  }
  return compressed ? orientation_of_xmp(inflated(data.subspan(at))) : orientation_of_xmp(all.substr(at));
}

// eXIf decides over ImageMagick's profile, and that over XMP, wherever they stand in the file.
int orientation_of(std::span<const uint8_t> bytes) {
  int exif = 0, profile = 0, xmp = 0;
  for (size_t at = 8; at + 12 <= bytes.size();) {
    const size_t length = be32(bytes, at);
    if (length > bytes.size() - at - 12) break;
    const std::string_view type(reinterpret_cast<const char*>(bytes.data()) + at + 4, 4);
    const std::span<const uint8_t> data = bytes.subspan(at + 8, length);
    if (type == "IEND") break;
    if (type == "eXIf") exif = orientation_of_exif(data);
    if ((type == "tEXt" || type == "zTXt") && profile == 0) profile = orientation_of_text(type, data);
    if (type == "iTXt" && xmp == 0) xmp = orientation_of_text(type, data);
    at += length + 12;
  }
  return exif != 0 ? exif : profile != 0 ? profile : xmp;
}

}  // namespace

Decoded decode_png(const Source& source) {
  PngReader reader;
  reader.rest = source.bytes;
  reader.max_pixels = source.max_pixels;
  // The header's checksum does count: sizes decide how much memory is taken.
  if (source.bytes.size() >= 33 &&
      crc32(0, source.bytes.data() + 12, 17) != be32(source.bytes, 29))
    source.fail("PNG", "the header's checksum is wrong");
  const bool complete = read_pixels(reader);
  if (reader.too_large) source.check_size("PNG", reader.width, reader.height);
  if (!complete) source.fail("PNG", "{}", reader.message[0] != 0 ? reader.message : "out of memory");
  return {std::move(reader.image), orientation_of(source.bytes)};
}

}  // namespace fovea::detail
