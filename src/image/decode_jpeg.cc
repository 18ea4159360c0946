// JPEG with libjpeg-turbo: accurate integer DCT, fancy upsampling, four inks inverted as Adobe writes them.
#include <cstdio>

#include <csetjmp>
#include <string>

#include <jpeglib.h>
#include <jerror.h>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

constexpr int kMaxScans = 500;  // a progressive picture has some ten; thousands only serve to keep a reader busy

// Everything that must outlive a longjmp out of the library. The library reports through it and never sees C++ throw.
struct JpegReader {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  jpeg_source_mgr input{};
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = {};
  int64_t max_pixels = 0;
  std::vector<uint8_t> row;
  Image image;
  bool too_large = false, created = false;

  ~JpegReader() {
    if (created) jpeg_destroy_decompress(&info);
  }
};

JpegReader& reader_of(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }

[[noreturn]] void stop(JpegReader& reader, const char* reason) {
  std::snprintf(reader.message, sizeof(reader.message), "%s", reason);
  std::longjmp(reader.jump, 1);
}

void on_error(j_common_ptr info) {
  JpegReader& reader = reader_of(info);
  info->err->format_message(info, reader.message);
  std::longjmp(reader.jump, 1);
}

void on_progress(j_common_ptr info) {
  if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans)
    stop(reader_of(info), "it has too many scans");
}

boolean on_end_of_input(j_decompress_ptr info) {
  stop(reader_of(reinterpret_cast<j_common_ptr>(info)), "the file is truncated");
}

void skip_input(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > info->src->bytes_in_buffer) on_end_of_input(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<size_t>(count);
}

// False when the library gave up: `message` says why. No object with a destructor lives in this frame.
bool read_pixels(JpegReader& reader, std::span<const uint8_t> bytes) {
  jpeg_decompress_struct& info = reader.info;
  info.err = jpeg_std_error(&reader.errors);
  info.client_data = &reader;
  reader.errors.error_exit = on_error;
  reader.errors.output_message = [](j_common_ptr) {};
  if (setjmp(reader.jump) != 0) return false;
  jpeg_create_decompress(&info);
  reader.created = true;
  reader.progress.progress_monitor = on_progress;
  info.progress = &reader.progress;
  reader.input.next_input_byte = bytes.data();
  reader.input.bytes_in_buffer = bytes.size();
  reader.input.init_source = [](j_decompress_ptr) {};
  reader.input.fill_input_buffer = on_end_of_input;
  reader.input.skip_input_data = skip_input;
  reader.input.resync_to_restart = jpeg_resync_to_restart;
  reader.input.term_source = [](j_decompress_ptr) {};
  info.src = &reader.input;
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&info, TRUE);

  if (static_cast<int64_t>(info.image_width) * info.image_height > reader.max_pixels) {
    reader.too_large = true;
    return false;
  }
  switch (info.num_components) {
    case 1: info.out_color_space = JCS_GRAYSCALE; break;
    case 3: info.out_color_space = JCS_RGB; break;
    case 4: info.out_color_space = JCS_CMYK; break;
    default: stop(reader, "it has neither 1, 3 nor 4 colour components");
  }
  jpeg_start_decompress(&info);
  const auto width = static_cast<int>(info.output_width), height = static_cast<int>(info.output_height);
  reader.image = Image(width, height, 3);
  reader.row.resize(static_cast<size_t>(width) * static_cast<size_t>(info.output_components));
  for (int y = 0; y < height; ++y) {
    uint8_t* rgb = reader.image.row(y);
    JSAMPROW target = info.output_components == 3 ? rgb : reader.row.data();
    jpeg_read_scanlines(&info, &target, 1);
    if (info.output_components == 3) continue;
    const uint8_t* p = target;
    for (int x = 0; x < width; ++x, rgb += 3) {
      if (info.output_components == 1)
        put_grey(rgb, *p++);
      else {
        put_cmyk(rgb, 255 - p[0], 255 - p[1], 255 - p[2], 255 - p[3]);
        p += 4;
      }
    }
  }
  return true;
}

int orientation_of(const jpeg_decompress_struct& info) {
  constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  std::vector<uint8_t> exif;
  std::string_view xmp;
  for (jpeg_saved_marker_ptr m = info.marker_list; m != nullptr; m = m->next) {
    const std::span<const uint8_t> data(m->data, m->data_length);
    if (starts_with(data, kExif))  // a block above 64 KiB continues in further markers
      exif.insert(exif.end(), data.begin() + (exif.empty() ? 0 : static_cast<std::ptrdiff_t>(kExif.size())), data.end());
    else if (starts_with(data, kXmp))
      xmp = std::string_view(reinterpret_cast<const char*>(m->data), m->data_length).substr(kXmp.size());
  }
  const int orientation = orientation_of_exif(exif);
  return orientation != 0 ? orientation : orientation_of_xmp(xmp);
}

}  // namespace

Decoded decode_jpeg(const Source& source) {
  JpegReader reader;
  reader.max_pixels = source.max_pixels;
  const bool complete = read_pixels(reader, source.bytes);
  if (reader.too_large) source.check_size("JPEG", reader.info.image_width, reader.info.image_height);
  if (!complete) source.fail("JPEG", "{}", reader.message);
  return {std::move(reader.image), orientation_of(reader.info)};
}

}  // namespace fovea::detail
