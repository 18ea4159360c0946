// Pictures inside a page: RGB pixels as a PNG in a data URI.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fovea::report {

// 8-bit RGB, rows from the top without padding: rgb.size() == 3 * width * height.
struct RgbImage {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;
};

std::string base64(std::span<const uint8_t> bytes);

// The image brought to about the size of a thumbnail by a whole factor: one whose longer side is below `target` is
// enlarged by repeating pixels (nearest neighbour, at most 16 times), a larger one is reduced by averaging blocks until
// its longer side is at most 2 * target.
RgbImage fit_thumbnail(const RgbImage& image, int target);

// "data:image/png;base64,..." of the pixels as they are.
std::string png_data_uri(const RgbImage& image);

}  // namespace fovea::report
