// The first frame of a GIF, with giflib. What the frame leaves uncovered shows its transparent index, else index 0.
#include <cstring>
#include <memory>

#include <gif_lib.h>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

struct GifInput {
  std::span<const uint8_t> rest;
};

int read_input(GifFileType* gif, GifByteType* to, int count) {
  auto& input = *static_cast<GifInput*>(gif->UserData);
  const size_t n = std::min(static_cast<size_t>(std::max(count, 0)), input.rest.size());
  if (n != 0) std::memcpy(to, input.rest.data(), n);
  input.rest = input.rest.subspan(n);
  return static_cast<int>(n);
}

struct CloseGif {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};

[[noreturn]] void fail(const Source& source, int error) {
  if (error == D_GIF_ERR_READ_FAILED || error == D_GIF_ERR_EOF_TOO_SOON) source.fail("GIF", "the file is truncated");
  const char* reason = GifErrorString(error);
  source.fail("GIF", "{}", reason != nullptr ? reason : "the file is broken or truncated");
}

// Reads up to the first frame's descriptor; returns the transparent index or -1.
int seek_first_frame(GifFileType* gif, const Source& source) {
  int transparent = -1;
  for (;;) {
    GifRecordType record = UNDEFINED_RECORD_TYPE;
    if (DGifGetRecordType(gif, &record) != GIF_OK) fail(source, gif->Error);
    if (record == IMAGE_DESC_RECORD_TYPE) {
      if (DGifGetImageDesc(gif) != GIF_OK) fail(source, gif->Error);
      return transparent;
    }
    if (record == TERMINATE_RECORD_TYPE) source.fail("GIF", "it holds no picture");
    if (record != EXTENSION_RECORD_TYPE) continue;
    int code = 0;
    GifByteType* block = nullptr;  // its length, then its bytes
    if (DGifGetExtension(gif, &code, &block) != GIF_OK) fail(source, gif->Error);
    if (code == GRAPHICS_EXT_FUNC_CODE && block != nullptr && block[0] >= 4 && (block[1] & 1) != 0)
      transparent = block[4];
    while (block != nullptr)
      if (DGifGetExtensionNext(gif, &block) != GIF_OK) fail(source, gif->Error);
  }
}

Palette palette_of(const ColorMapObject* colors) {
  Palette palette;
  for (int i = 0; i < 256; ++i) {
    if (colors == nullptr)
      put_grey(palette.rgb[i], static_cast<uint8_t>(i));
    else if (i < colors->ColorCount) {
      palette.rgb[i][0] = colors->Colors[i].Red;
      palette.rgb[i][1] = colors->Colors[i].Green;
      palette.rgb[i][2] = colors->Colors[i].Blue;
    }
  }
  return palette;
}

// A palette of grey steps in order says nothing: Pillow goes without it, and with a frame's own one falls back on the file's.
const ColorMapObject* said(const ColorMapObject* colors) {
  if (colors == nullptr) return nullptr;
  for (int i = 0; i < colors->ColorCount; ++i)
    if (colors->Colors[i].Red != i || colors->Colors[i].Green != i || colors->Colors[i].Blue != i) return colors;
  return nullptr;
}

}  // namespace

Decoded decode_gif(const Source& source) {
  GifInput input{source.bytes};
  int error = 0;
  const std::unique_ptr<GifFileType, CloseGif> gif(DGifOpen(&input, read_input, &error));
  if (gif == nullptr) fail(source, error);
  const int transparent = seek_first_frame(gif.get(), source);
  const GifImageDesc& frame = gif->Image;
  if (frame.Left < 0 || frame.Top < 0) source.fail("GIF", "the frame lies outside the picture");
  source.check_size("GIF", frame.Width, frame.Height);
  const int width = std::max(gif->SWidth, frame.Left + frame.Width);
  const int height = std::max(gif->SHeight, frame.Top + frame.Height);
  source.check_size("GIF", width, height);

  constexpr size_t kMaxRatio = 4096;  // the longest string a 12-bit code can stand for
  if (static_cast<size_t>(frame.Width) * static_cast<size_t>(frame.Height) / kMaxRatio > source.bytes.size())
    source.fail("GIF", "the file is truncated: {}x{} pixels cannot be in {} bytes", frame.Width, frame.Height,
                source.bytes.size());

  Image indices(width, height, 1, static_cast<uint8_t>(std::max(transparent, 0)));
  const auto read_row = [&](int y) {
    if (DGifGetLine(gif.get(), indices.row(frame.Top + y) + frame.Left, frame.Width) != GIF_OK)
      fail(source, gif->Error);
  };
  if (frame.Interlace) {
    constexpr int kStart[] = {0, 4, 2, 1}, kStep[] = {8, 8, 4, 2};
    for (int pass = 0; pass < 4; ++pass)
      for (int y = kStart[pass]; y < frame.Height; y += kStep[pass]) read_row(y);
  } else {
    for (int y = 0; y < frame.Height; ++y) read_row(y);
  }

  const ColorMapObject* own = said(frame.ColorMap);
  const Palette palette = palette_of(own != nullptr ? own : said(gif->SColorMap));
  Decoded decoded{Image(width, height, 3), 1};
  uint8_t* rgb = decoded.image.pixels.data();
  for (const uint8_t index : indices.pixels) {
    std::memcpy(rgb, palette.rgb[index], 3);
    rgb += 3;
  }
  return decoded;
}

}  // namespace fovea::detail
