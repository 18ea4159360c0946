#include "report/png_data.h"

#include <png.h>

#include <algorithm>

#include "core/check.h"

namespace fovea::report {
namespace {

void check_image(const RgbImage& image) {
  check(image.width > 0 && image.height > 0 &&
            image.rgb.size() == 3 * static_cast<size_t>(image.width) * static_cast<size_t>(image.height),
        "RgbImage: {} bytes for {}x{} pixels", image.rgb.size(), image.width, image.height);
}

RgbImage enlarged(const RgbImage& image, int factor) {
  RgbImage out{image.width * factor, image.height * factor, {}};
  out.rgb.reserve(image.rgb.size() * static_cast<size_t>(factor) * static_cast<size_t>(factor));
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      const uint8_t* pixel = &image.rgb[3 * (static_cast<size_t>(y / factor) * image.width + x / factor)];
      out.rgb.insert(out.rgb.end(), pixel, pixel + 3);
    }
  }
  return out;
}

RgbImage reduced(const RgbImage& image, int factor) {
  RgbImage out{(image.width + factor - 1) / factor, (image.height + factor - 1) / factor, {}};
  out.rgb.reserve(3 * static_cast<size_t>(out.width) * out.height);
  for (int y = 0; y < out.height; ++y) {
    const int y_end = std::min(image.height, (y + 1) * factor);
    for (int x = 0; x < out.width; ++x) {
      const int x_end = std::min(image.width, (x + 1) * factor);
      for (int channel = 0; channel < 3; ++channel) {
        int64_t sum = 0, count = 0;
        for (int v = y * factor; v < y_end; ++v)
          for (int u = x * factor; u < x_end; ++u, ++count)
            sum += image.rgb[3 * (static_cast<size_t>(v) * image.width + u) + channel];
        out.rgb.push_back(static_cast<uint8_t>((sum + count / 2) / count));
      }
    }
  }
  return out;
}

}  // namespace

std::string base64(std::span<const uint8_t> bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    const uint32_t group = uint32_t{bytes[i]} << 16 | (left > 1 ? uint32_t{bytes[i + 1]} << 8 : 0) |
                           (left > 2 ? uint32_t{bytes[i + 2]} : 0);
    out += kAlphabet[group >> 18];
    out += kAlphabet[group >> 12 & 63];
    out += left > 1 ? kAlphabet[group >> 6 & 63] : '=';
    out += left > 2 ? kAlphabet[group & 63] : '=';
  }
  return out;
}

RgbImage fit_thumbnail(const RgbImage& image, int target) {
  check_image(image);
  check(target > 0, "fit_thumbnail: target {}", target);
  const int side = std::max(image.width, image.height);
  if (side > 2 * target) return reduced(image, (side + 2 * target - 1) / (2 * target));
  const int factor = std::min(16, target / side);
  return factor > 1 ? enlarged(image, factor) : image;
}

std::string png_data_uri(const RgbImage& image) {
  check_image(image);
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  bool done = png_image_write_to_memory(&png, nullptr, &size, 0, image.rgb.data(), 0, nullptr) != 0;
  std::vector<uint8_t> bytes(size);
  done = done && png_image_write_to_memory(&png, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr) != 0;
  check(done, "png_data_uri: {}x{} pixels: {}", image.width, image.height, png.message);
  bytes.resize(size);
  return "data:image/png;base64," + base64(bytes);
}

}  // namespace fovea::report
