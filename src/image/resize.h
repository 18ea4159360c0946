// Resizing with the same bytes as Pillow 13's Image.resize (8-bit, antialiased: the filter widens when the picture
// shrinks). Earlier versions of Pillow always merge columns first, which can differ by one where a picture's height shrinks
// by more than twice as many pixels as its width.
#pragma once

#include <string_view>

#include "image/image.h"

namespace fovea {

enum class Interpolation : uint8_t { kNearest, kBox, kBilinear, kHamming, kBicubic, kLanczos };

std::string_view name_of(Interpolation interpolation);
// "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"; throws Error for other names.
Interpolation interpolation_of(std::string_view name);

// The source region of a resize in pixels; fractions count. Single precision, as in Pillow.
struct ResizeBox {
  float left = 0, top = 0, right = 0, bottom = 0;
};

// Whole pixels of a picture.
struct PixelRegion {
  int left = 0, top = 0, width = 0, height = 0;
};

// `image` as width x height. Throws Error when a size is below 1 or the box leaves the picture.
Image resize(const Image& image, int width, int height, Interpolation interpolation);
Image resize(const Image& image, int width, int height, Interpolation interpolation, const ResizeBox& box);
// The pixels of that result in `region` alone, at the cost of these. Throws Error also when the region leaves the result.
Image resize_region(const Image& image, int width, int height, Interpolation interpolation, const PixelRegion& region);

}  // namespace fovea
