// WebP, still or animated (first frame), with libwebp.
#include <memory>
#include <webp/decode.h>
#include <webp/demux.h>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

std::span<const uint8_t> chunk_of(const WebPDemuxer* demuxer, const char* fourcc, WebPChunkIterator& chunk) {
  if (!WebPDemuxGetChunk(demuxer, fourcc, 1, &chunk)) return {};
  return {chunk.chunk.bytes, chunk.chunk.size};
}

int orientation_of(const WebPDemuxer* demuxer) {
  WebPChunkIterator chunk{};
  const int exif = orientation_of_exif(chunk_of(demuxer, "EXIF", chunk));
  WebPDemuxReleaseChunkIterator(&chunk);
  if (exif != 0) return exif;
  chunk = {};
  const std::span<const uint8_t> xmp = chunk_of(demuxer, "XMP ", chunk);
  const int orientation = orientation_of_xmp({reinterpret_cast<const char*>(xmp.data()), xmp.size()});
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

}  // namespace

Decoded decode_webp(const Source& source) {
  WebPBitstreamFeatures features{};
  const VP8StatusCode status = WebPGetFeatures(source.bytes.data(), source.bytes.size(), &features);
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) source.fail("WebP", "the file is truncated");
  if (status != VP8_STATUS_OK) source.fail("WebP", "the header is broken");
  source.check_size("WebP", features.width, features.height);

  const WebPData data{source.bytes.data(), source.bytes.size()};
  WebPAnimDecoderOptions options;
  WebPAnimDecoderOptionsInit(&options);
  options.use_threads = 0;
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(WebPAnimDecoderNew(&data, &options),
                                                                             WebPAnimDecoderDelete);
  if (decoder == nullptr) source.fail("WebP", "the file is truncated or broken");
  WebPAnimInfo info{};
  WebPAnimDecoderGetInfo(decoder.get(), &info);
  source.check_size("WebP", info.canvas_width, info.canvas_height);
  uint8_t* rgba = nullptr;
  int timestamp = 0;
  if (!WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp))
    source.fail("WebP", "the picture's data are truncated or broken");

  Decoded decoded{Image(static_cast<int>(info.canvas_width), static_cast<int>(info.canvas_height), 3),
                  orientation_of(WebPAnimDecoderGetDemuxer(decoder.get()))};
  uint8_t* rgb = decoded.image.pixels.data();
  const size_t pixels = decoded.image.pixels.size() / 3;
  for (size_t i = 0; i < pixels; ++i, rgb += 3, rgba += 4) {
    rgb[0] = rgba[0];
    rgb[1] = rgba[1];
    rgb[2] = rgba[2];
  }
  return decoded;
}

}  // namespace fovea::detail
