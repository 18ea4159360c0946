// Two passes with 22-bit fixed-point weights, rounded to 8 bits after each: the arithmetic that Pillow's 8-bit images see
// (Pillow, "Concepts: filters"; src/libImaging/Resample.c).
#include "image/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/check.h"

namespace fovea {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;  // 8 bits of result, 2 of headroom for weights below 0 and sums above 1
constexpr int kLanes = 48;                  // samples per step: 16 RGB pixels or 48 grey ones

double box_weight(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear_weight(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double hamming_weight(double x) {
  x = std::fabs(x);
  if (x == 0.0) return 1.0;
  if (x >= 1.0) return 0.0;
  x *= std::numbers::pi;
  return std::sin(x) / x * (double{0.54f} + double{0.46f} * std::cos(x));  // the window's constants are single precision
}

double bicubic_weight(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos_weight(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Filter {
  double (*weight)(double);
  double support;
};

Filter filter_of(Interpolation interpolation) {
  switch (interpolation) {
    case Interpolation::kBox: return {box_weight, 0.5};
    case Interpolation::kBilinear: return {bilinear_weight, 1.0};
    case Interpolation::kHamming: return {hamming_weight, 1.0};
    case Interpolation::kBicubic: return {bicubic_weight, 2.0};
    case Interpolation::kLanczos: return {lanczos_weight, 3.0};
    case Interpolation::kNearest: break;
  }
  throw InternalError("the nearest neighbour has no filter");
}

// For each output position the first source position, how many there are, and their weights.
struct Taps {
  int stride = 0;  // weights per output position
  std::vector<int> first, count;
  std::vector<int32_t> weights;

  // Source positions that are read at all; both ends of what one output position reads grow with it.
  int begin() const { return first.front(); }
  int end() const { return first.back() + count.back(); }
};

// Of the output positions [begin, begin + length) of out_size.
Taps taps_of(const Filter& filter, int in_size, float in0, float in1, int out_size, int begin, int length) {
  const double scale = static_cast<double>(in1 - in0) / out_size;
  const double filter_scale = std::max(scale, 1.0);
  const double support = filter.support * filter_scale;
  const double inverse_scale = 1.0 / filter_scale;
  Taps taps;
  taps.stride = static_cast<int>(std::ceil(support)) * 2 + 1;
  const auto n = static_cast<size_t>(length);
  taps.first.resize(n);
  taps.count.resize(n);
  taps.weights.assign(n * static_cast<size_t>(taps.stride), 0);
  std::vector<double> weights(static_cast<size_t>(taps.stride));
  for (int i = 0; i < length; ++i) {
    const double center = static_cast<double>(in0) + (begin + i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int count = std::min(in_size, static_cast<int>(center + support + 0.5)) - first;
    double sum = 0;
    for (int k = 0; k < count; ++k) {
      const double w = filter.weight((k + first - center + 0.5) * inverse_scale);
      weights[static_cast<size_t>(k)] = w;
      sum += w;
    }
    int32_t* out = taps.weights.data() + static_cast<size_t>(i) * static_cast<size_t>(taps.stride);
    for (int k = 0; k < count; ++k) {
      const double w = (sum != 0.0 ? weights[static_cast<size_t>(k)] / sum : weights[static_cast<size_t>(k)]) *
                       (1 << kPrecisionBits);
      out[k] = static_cast<int32_t>(w < 0 ? w - 0.5 : w + 0.5);
    }
    taps.first[static_cast<size_t>(i)] = first;
    taps.count[static_cast<size_t>(i)] = count;
  }
  return taps;
}

using Lanes32 = int32_t __attribute__((vector_size(64)));
using Lanes16 = uint16_t __attribute__((vector_size(32)));
using Lanes8 = uint8_t __attribute__((vector_size(16)));

namespace baseline {
#define FOVEA_TARGET
#include "image/resize_passes.inc"
#undef FOVEA_TARGET
}  // namespace baseline

#if defined(__x86_64__)
namespace avx2 {
#define FOVEA_TARGET __attribute__((target("avx2")))
#include "image/resize_passes.inc"
#undef FOVEA_TARGET
}  // namespace avx2

namespace avx512 {
#define FOVEA_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#include "image/resize_passes.inc"
#undef FOVEA_TARGET
}  // namespace avx512
#endif

struct Passes {
  void (*horizontal)(const Image& in, const Taps& taps, int first_row, Image& out, uint8_t* columns);
  void (*vertical)(const uint8_t* in, size_t row_bytes, const Taps& taps, int first_row, uint8_t* out);
};

Passes passes_of_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return {avx512::horizontal_any, avx512::vertical_rows};
  if (__builtin_cpu_supports("avx2")) return {avx2::horizontal_any, avx2::vertical_rows};
#endif
  return {baseline::horizontal_any, baseline::vertical_rows};
}

// The nearest source position of the output positions [begin, begin + length), or -1 outside the picture; positions are
// summed up step by step from the first one.
std::vector<int> nearest_positions(float in0, float in1, int in_size, int out_size, int begin, int length) {
  const double step = static_cast<double>(in1 - in0) / out_size;
  double at = static_cast<double>(in0) + step * 0.5;
  for (int i = 0; i < begin; ++i) at += step;
  std::vector<int> positions(static_cast<size_t>(length));
  for (int& p : positions) {
    p = static_cast<int>(at);
    if (at < 0 || p >= in_size) p = -1;
    at += step;
  }
  return positions;
}

Image resize_nearest(const Image& image, int width, int height, const ResizeBox& box, const PixelRegion& region) {
  const std::vector<int> xs = nearest_positions(box.left, box.right, image.width, width, region.left, region.width);
  const std::vector<int> ys = nearest_positions(box.top, box.bottom, image.height, height, region.top, region.height);
  Image out(region.width, region.height, image.channels);
  for (int y = 0; y < region.height; ++y) {
    const int sy = ys[static_cast<size_t>(y)];
    if (sy < 0) continue;
    uint8_t* q = out.row(y);
    for (const int sx : xs) {
      if (sx >= 0) std::memcpy(q, image.row(sy) + sx * image.channels, static_cast<size_t>(image.channels));
      q += image.channels;
    }
  }
  return out;
}

Image copied(const Image& image, int left, int top, int width, int height) {
  Image out(width, height, image.channels);
  for (int y = 0; y < height; ++y) std::memcpy(out.row(y), image.row(top + y) + left * image.channels, out.row_bytes());
  return out;
}

bool whole(float v) { return v == std::floor(v); }

}  // namespace

std::string_view name_of(Interpolation interpolation) {
  switch (interpolation) {
    case Interpolation::kNearest: return "nearest";
    case Interpolation::kBox: return "box";
    case Interpolation::kBilinear: return "bilinear";
    case Interpolation::kHamming: return "hamming";
    case Interpolation::kBicubic: return "bicubic";
    case Interpolation::kLanczos: return "lanczos";
  }
  return "?";
}

Interpolation interpolation_of(std::string_view name) {
  for (const Interpolation i : {Interpolation::kNearest, Interpolation::kBox, Interpolation::kBilinear,
                                Interpolation::kHamming, Interpolation::kBicubic, Interpolation::kLanczos})
    if (name_of(i) == name) return i;
  fail("unknown interpolation \"{}\": use nearest, box, bilinear, hamming, bicubic or lanczos", name);
}

namespace {

Image resized(const Image& image, int width, int height, Interpolation interpolation, const ResizeBox& box,
              const PixelRegion& region) {
  require(width >= 1 && height >= 1, "cannot resize to {}x{}: width and height must be at least 1", width, height);
  require(image.width >= 1 && image.height >= 1 && (image.channels == 1 || image.channels == 3),
          "cannot resize a picture of {}x{} with {} channels", image.width, image.height, image.channels);
  const auto in_width = static_cast<float>(image.width), in_height = static_cast<float>(image.height);
  require(box.left >= 0 && box.top >= 0 && box.right <= in_width && box.bottom <= in_height && box.left <= box.right &&
              box.top <= box.bottom,
          "the resize box ({}, {}, {}, {}) leaves the picture of {}x{}", box.left, box.top, box.right, box.bottom,
          image.width, image.height);
  require(region.left >= 0 && region.top >= 0 && region.width >= 1 && region.height >= 1 &&
              region.left <= width - region.width && region.top <= height - region.height,
          "a region of {}x{} at ({}, {}) leaves the picture of {}x{}", region.width, region.height, region.left,
          region.top, width, height);
  const auto out_width = static_cast<float>(width), out_height = static_cast<float>(height);
  if (whole(box.left) && whole(box.top) && box.right - box.left == out_width && box.bottom - box.top == out_height)
    return copied(image, static_cast<int>(box.left) + region.left, static_cast<int>(box.top) + region.top, region.width,
                  region.height);
  if (interpolation == Interpolation::kNearest) return resize_nearest(image, width, height, box, region);

  static const Passes passes = passes_of_machine();
  const Filter filter = filter_of(interpolation);
  const bool across = width != image.width || box.left != 0 || box.right != out_width;
  const bool down = height != image.height || box.top != 0 || box.bottom != out_height;
  // As Pillow does since version 13: when the height shrinks by far more pixels than the width, rows are merged first.
  const int64_t shrink_x = int64_t{image.width} - width, shrink_y = int64_t{image.height} - height;
  const bool columns_first = shrink_y <= 0 || shrink_y <= 2 * shrink_x;
  const auto run_across = [&](const Image& in, int first_row, int rows) {
    const Taps taps = taps_of(filter, in.width, box.left, box.right, width, region.left, region.width);
    Image out(region.width, rows, in.channels);
    std::vector<uint8_t> columns(static_cast<size_t>(taps.end() - taps.begin()) * kLanes);
    passes.horizontal(in, taps, first_row, out, columns.data());
    return out;
  };
  if (!down) return run_across(image, region.top, region.height);

  const Taps taps = taps_of(filter, image.height, box.top, box.bottom, height, region.top, region.height);
  const int first_row = taps.begin(), rows = taps.end() - first_row;  // only what this pass reads has to be there
  const auto run_down = [&](const Image& in, int first) {
    Image out(in.width, region.height, in.channels);
    passes.vertical(in.pixels.data(), in.row_bytes(), taps, first, out.pixels.data());
    return out;
  };
  if (!across && region.width == image.width) return run_down(image, 0);
  if (!across) return run_down(copied(image, region.left, first_row, region.width, rows), first_row);
  if (!columns_first) return run_across(run_down(image, 0), 0, region.height);
  return run_down(run_across(image, first_row, rows), first_row);
}

}  // namespace

Image resize(const Image& image, int width, int height, Interpolation interpolation) {
  return resize_region(image, width, height, interpolation, {0, 0, width, height});
}

Image resize(const Image& image, int width, int height, Interpolation interpolation, const ResizeBox& box) {
  return resized(image, width, height, interpolation, box, {0, 0, width, height});
}

Image resize_region(const Image& image, int width, int height, Interpolation interpolation, const PixelRegion& region) {
  return resized(image, width, height, interpolation,
                 {0, 0, static_cast<float>(image.width), static_cast<float>(image.height)}, region);
}

}  // namespace fovea
