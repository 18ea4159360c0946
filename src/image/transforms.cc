#include "image/transforms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace fovea {
namespace {

constexpr int64_t kLongestSide = (int64_t{1} << 31) - 1;  // of a scaled picture, of which a part is computed

// Python's round(): halves go to the even neighbour.
int half_to_even(double x) { return static_cast<int>(std::nearbyint(x)); }

// Where `wanted` of `there` pixels begin; negative where padding comes first.
int centered(int there, int wanted, CropRounding rounding) {
  const int spare = there - wanted;
  if (rounding == CropRounding::kDown) return spare >= 0 ? spare / 2 : -((1 - spare) / 2);
  return spare >= 0 ? half_to_even(spare / 2.0) : -(-spare / 2);
}

// The aspect of width x height, so that both sides reach (short) or neither exceeds (border) the given size: timm's
// ResizeKeepRatio.
std::pair<int, int> same_aspect(int width, int height, int to_width, int to_height, bool inside) {
  const double across = static_cast<double>(width) / to_width, down = static_cast<double>(height) / to_height;
  const double ratio = inside ? std::max(across, down) : std::min(across, down);
  const auto side = [&](int n) {
    const double scaled = std::nearbyint(n / ratio);
    require(scaled >= 1 && scaled <= static_cast<double>(kLongestSide),
            "a picture of {}x{} is too elongated for {}x{}: crop it first", width, height, to_width, to_height);
    return static_cast<int>(scaled);
  };
  return {side(width), side(height)};
}

// The samples of mean, as timm fills borders.
std::vector<uint8_t> border_colour(const Preprocess& p) {
  std::vector<uint8_t> colour;
  for (const double m : p.mean) colour.push_back(static_cast<uint8_t>(std::clamp(std::nearbyint(255 * m), 0.0, 255.0)));
  colour.resize(static_cast<size_t>(p.channels));
  return colour;
}

}  // namespace

std::pair<int, int> short_side_size(int width, int height, int size) {
  const int shorter = std::min(width, height);
  const int64_t longer = int64_t{size} * std::max(width, height) / shorter;
  require(longer <= kLongestSide, "a picture of {}x{} is too elongated to bring its short side to {}: crop it first", width,
          height, size);
  const auto l = static_cast<int>(longer);
  return width <= height ? std::pair{size, l} : std::pair{l, size};
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
  const int left = centered(image.width, width, CropRounding::kEven), top = centered(image.height, height, CropRounding::kEven);
  const int w = std::min(width, image.width), h = std::min(height, image.height);
  const Image inner = crop(image, std::max(0, top), std::max(0, left), h, w);
  if (w == width && h == height) return inner;
  const int before = std::max(0, -left), above = std::max(0, -top);
  return pad(inner, before, above, width - w - before, height - h - above);
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

void normalize(const Image& image, const std::vector<double>& mean, const std::vector<double>& std, float* chw) {
  const auto channels = static_cast<size_t>(image.channels);
  require(mean.size() == channels && std.size() == channels,
          "normalising a picture of {} channels needs as many values: mean has {}, std has {}", channels, mean.size(),
          std.size());
  const size_t pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  for (size_t c = 0; c < channels; ++c) {
    // A sample has 256 values, so the arithmetic is done once for each.
    std::array<float, 256> table;
    const auto m = static_cast<float>(mean[c]), d = static_cast<float>(std[c]);
    for (size_t v = 0; v < table.size(); ++v) table[v] = (static_cast<float>(v) / 255.0f - m) / d;
    const uint8_t* p = image.pixels.data() + c;
    float* out = chw + c * pixels;
    for (size_t i = 0; i < pixels; ++i, p += channels) out[i] = table[*p];
  }
}

Placement placement_of(int width, int height, const Preprocess& p) {
  require(p.crop_pct > 0 && p.crop_pct <= 1, "crop_pct must be in (0, 1], got {}", p.crop_pct);
  require(std::max(p.height, p.width) / p.crop_pct <= static_cast<double>(kLongestSide), "a crop_pct of {} scales too far", p.crop_pct);
  const int to_height = p.resize_height > 0 ? p.resize_height : scale_size(p.height, p.crop_pct);
  const int to_width = p.resize_width > 0 ? p.resize_width : scale_size(p.width, p.crop_pct);
  std::pair<int, int> scaled{width, height};
  switch (p.mode) {
    case ResizeMode::kShortSide:
      scaled = to_height == to_width ? short_side_size(width, height, to_height)
                                     : same_aspect(width, height, to_width, to_height, false);
      break;
    case ResizeMode::kSquash: scaled = {to_width, to_height}; break;
    case ResizeMode::kBorder: scaled = same_aspect(width, height, to_width, to_height, true); break;
    case ResizeMode::kNone: break;
  }
  return {scaled.first, scaled.second, centered(scaled.first, p.width, p.rounding),
          centered(scaled.second, p.height, p.rounding)};
}

bool is_fitted(const Image& image, const Preprocess& p) {
  const Placement place = placement_of(image.width, image.height, p);
  return image.channels == p.channels && image.width == p.width && image.height == p.height && place.width == p.width &&
         place.height == p.height;
}

Image fit(const Image& image, const Preprocess& preprocess) {
  const int height = preprocess.height, width = preprocess.width;
  const Placement place = placement_of(image.width, image.height, preprocess);
  const PixelRegion seen{std::max(0, place.left), std::max(0, place.top), std::min(width, place.width),
                         std::min(height, place.height)};
  const Image part = resize_region(to_channels(image, preprocess.channels), place.width, place.height,
                                   preprocess.interpolation, seen);
  if (seen.width == width && seen.height == height) return part;
  Image out(width, height, preprocess.channels);
  if (preprocess.mode == ResizeMode::kBorder) {
    const std::vector<uint8_t> colour = border_colour(preprocess);
    for (size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = colour[i % colour.size()];
  }
  const int before = std::max(0, -place.left), above = std::max(0, -place.top);
  for (int y = 0; y < part.height; ++y)
    std::memcpy(out.row(above + y) + before * out.channels, part.row(y), part.row_bytes());
  return out;
}

void preprocess(const Image& image, const Preprocess& preprocess, float* chw) {
  normalize(fit(image, preprocess), preprocess.mean, preprocess.std, chw);
}

}  // namespace fovea
