// Decoded pictures: 8-bit samples in rows of interleaved channels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fovea {

// height x width x channels bytes, row-major, channels innermost (1: grey, 3: RGB).
struct Image {
  int width = 0, height = 0, channels = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int w, int h, int c, uint8_t value = 0)
      : width(w), height(h), channels(c),
        pixels(static_cast<size_t>(w) * static_cast<size_t>(h) * static_cast<size_t>(c), value) {}

  bool empty() const { return pixels.empty(); }
  size_t row_bytes() const { return static_cast<size_t>(width) * static_cast<size_t>(channels); }
  uint8_t* row(int y) { return pixels.data() + static_cast<size_t>(y) * row_bytes(); }
  const uint8_t* row(int y) const { return pixels.data() + static_cast<size_t>(y) * row_bytes(); }
  bool operator==(const Image& other) const = default;
};

}  // namespace fovea
