#include "image/transforms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace fovea {
namespace {

// Python's int(round(n / 2.0)): halves go to the even neighbour.
int half_to_even(int n) { return static_cast<int>(std::nearbyint(n / 2.0)); }

}  // namespace

std::pair<int, int> short_side_size(int width, int height, int size) {
  const int shorter = std::min(width, height);
  const auto longer = static_cast<int>(static_cast<int64_t>(size) * std::max(width, height) / shorter);
  return width <= height ? std::pair{size, longer} : std::pair{longer, size};
}

int scale_size(int size, double crop_pct) { return static_cast<int>(std::floor(size / crop_pct)); }

Image resize_short_side(const Image& image, int size, Interpolation interpolation) {
  require(image.width >= 1 && image.height >= 1 && size >= 1, "cannot bring the short side of a {}x{} picture to {}",
          image.width, image.height, size);
  const auto [width, height] = short_side_size(image.width, image.height, size);
  return resize(image, width, height, interpolation);
}

Image crop(const Image& image, int top, int left, int height, int width) {
  require(top >= 0 && left >= 0 && height >= 1 && width >= 1 && top + height <= image.height &&
              left + width <= image.width,
          "a crop of {}x{} at ({}, {}) leaves the picture of {}x{}", width, height, left, top, image.width, image.height);
  Image out(width, height, image.channels);
  for (int y = 0; y < height; ++y)
    std::memcpy(out.row(y), image.row(top + y) + static_cast<size_t>(left) * static_cast<size_t>(image.channels),
                out.row_bytes());
  return out;
}

Image pad(const Image& image, int left, int top, int right, int bottom, uint8_t value) {
  require(left >= 0 && top >= 0 && right >= 0 && bottom >= 0, "padding of {}, {}, {}, {} pixels is negative", left, top,
          right, bottom);
  Image out(image.width + left + right, image.height + top + bottom, image.channels, value);
  for (int y = 0; y < image.height; ++y)
    std::memcpy(out.row(top + y) + static_cast<size_t>(left) * static_cast<size_t>(image.channels), image.row(y),
                image.row_bytes());
  return out;
}

Image center_crop(const Image& image, int height, int width) {
  require(height >= 1 && width >= 1, "cannot crop to {}x{}: width and height must be at least 1", width, height);
  if (width > image.width || height > image.height) {
    const int left = width > image.width ? (width - image.width) / 2 : 0;
    const int top = height > image.height ? (height - image.height) / 2 : 0;
    const int right = width > image.width ? (width - image.width + 1) / 2 : 0;
    const int bottom = height > image.height ? (height - image.height + 1) / 2 : 0;
    const Image padded = pad(image, left, top, right, bottom);
    return crop(padded, half_to_even(padded.height - height), half_to_even(padded.width - width), height, width);
  }
  return crop(image, half_to_even(image.height - height), half_to_even(image.width - width), height, width);
}

Image to_channels(const Image& image, int channels) {
  require(channels == 1 || channels == 3, "pictures have 1 or 3 channels, not {}", channels);
  if (image.channels == channels) return image;
  Image out(image.width, image.height, channels);
  const uint8_t* p = image.pixels.data();
  uint8_t* q = out.pixels.data();
  const size_t pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  for (size_t i = 0; i < pixels; ++i) {
    if (channels == 3) {
      q[0] = q[1] = q[2] = *p++;
      q += 3;
    } else {
      *q++ = static_cast<uint8_t>((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
      p += 3;
    }
  }
  return out;
}

void normalize(const Image& image, const std::vector<float>& mean, const std::vector<float>& std, float* chw) {
  const auto channels = static_cast<size_t>(image.channels);
  require(mean.size() == channels && std.size() == channels,
          "normalising a picture of {} channels needs as many values: mean has {}, std has {}", channels, mean.size(),
          std.size());
  const size_t pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  for (size_t c = 0; c < channels; ++c) {
    // A sample has 256 values, so the arithmetic is done once for each.
    std::array<float, 256> table;
    for (size_t v = 0; v < table.size(); ++v) table[v] = (static_cast<float>(v) / 255.0f - mean[c]) / std[c];
    const uint8_t* p = image.pixels.data() + c;
    float* out = chw + c * pixels;
    for (size_t i = 0; i < pixels; ++i, p += channels) out[i] = table[*p];
  }
}

Image fit(const Image& image, const Preprocess& preprocess) {
  require(preprocess.crop_pct > 0 && preprocess.crop_pct <= 1, "crop_pct must be in (0, 1], got {}",
          preprocess.crop_pct);
  const int height = preprocess.height, width = preprocess.width;
  const Image source = to_channels(image, preprocess.channels);
  switch (preprocess.mode) {
    case ResizeMode::kSquash: return resize(source, width, height, preprocess.interpolation);
    case ResizeMode::kNone: return center_crop(source, height, width);
    case ResizeMode::kShortSide: break;
  }
  const int scaled_height = scale_size(height, preprocess.crop_pct);
  const int scaled_width = scale_size(width, preprocess.crop_pct);
  if (scaled_height == scaled_width)
    return center_crop(resize_short_side(source, scaled_height, preprocess.interpolation), height, width);
  // Not square: the smallest picture of the same aspect that covers the scaled size (timm's ResizeKeepRatio).
  const double ratio = std::min(static_cast<double>(source.height) / scaled_height,
                                static_cast<double>(source.width) / scaled_width);
  const auto side = [ratio](int n) { return static_cast<int>(std::nearbyint(n / ratio)); };
  return center_crop(resize(source, side(source.width), side(source.height), preprocess.interpolation), height, width);
}

void preprocess(const Image& image, const Preprocess& preprocess, float* chw) {
  normalize(fit(image, preprocess), preprocess.mean, preprocess.std, chw);
}

}  // namespace fovea
