#include "image/augment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "image/transforms.h"

namespace fovea {
namespace {

// Streams of the parts of `augment`, so that one part's choices do not depend on which others are on.
enum AugmentStream : uint64_t { kCrop = 1, kFlip, kColor };

double between(Rng& rng, double low, double high) { return low + (high - low) * rng.next_uniform(); }

int rounded(double v) { return static_cast<int>(std::nearbyint(v)); }

uint8_t truncated(float v) { return v <= 0.0f ? uint8_t{0} : v >= 255.0f ? uint8_t{255} : static_cast<uint8_t>(v); }

// base + factor * (image - base), in single precision and cut to 0..255; base(i) is the sample that factor 0 gives.
template <class Base>
Image blended(const Image& image, double factor, Base base) {
  require(factor >= 0, "an image cannot be adjusted by the negative factor {}", factor);
  if (factor == 1) return image;
  const auto alpha = static_cast<float>(factor);
  Image out(image.width, image.height, image.channels);
  for (size_t i = 0; i < out.pixels.size(); ++i) {
    const int from = base(i);
    out.pixels[i] = truncated(static_cast<float>(from) + alpha * static_cast<float>(image.pixels[i] - from));
  }
  return out;
}

}  // namespace

Image flip_horizontal(const Image& image) {
  Image out(image.width, image.height, image.channels);
  const auto channels = static_cast<size_t>(image.channels);
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* p = image.row(y);
    uint8_t* q = out.row(y) + out.row_bytes();
    for (int x = 0; x < image.width; ++x, p += channels) {
      q -= channels;
      for (size_t c = 0; c < channels; ++c) q[c] = p[c];
    }
  }
  return out;
}

Image random_flip(const Image& image, Rng rng, double probability) {
  return rng.next_uniform() < probability ? flip_horizontal(image) : image;
}

Image random_crop(const Image& image, int height, int width, int padding, Rng rng, uint8_t value) {
  require(padding >= 0, "a padding of {} pixels is negative", padding);
  const int rows = image.height + 2 * padding, columns = image.width + 2 * padding;
  require(height >= 1 && width >= 1 && height <= rows && width <= columns,
          "cannot cut {}x{} from a picture of {}x{} with {} pixels of padding", width, height, image.width, image.height,
          padding);
  const auto top = static_cast<int>(rng.next_below(static_cast<uint64_t>(rows - height) + 1));
  const auto left = static_cast<int>(rng.next_below(static_cast<uint64_t>(columns - width) + 1));
  return crop(pad(image, padding, padding, padding, padding, value), top, left, height, width);
}

Image random_resized_crop(const Image& image, const RandomResizedCrop& options, Rng rng) {
  require(options.scale_min > 0 && options.scale_min <= options.scale_max && options.ratio_min > 0 &&
              options.ratio_min <= options.ratio_max,
          "random resized crop: the scale {}..{} and the ratio {}..{} must be positive and in order", options.scale_min,
          options.scale_max, options.ratio_min, options.ratio_max);
  const auto cut = [&](int top, int left, int height, int width) {
    return resize(crop(image, top, left, height, width), options.width, options.height, options.interpolation);
  };
  const double area = static_cast<double>(image.width) * image.height;
  const double log_min = std::log(options.ratio_min), log_max = std::log(options.ratio_max);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * between(rng, options.scale_min, options.scale_max);
    const double ratio = std::exp(between(rng, log_min, log_max));
    const int width = rounded(std::sqrt(target * ratio)), height = rounded(std::sqrt(target / ratio));
    if (width < 1 || height < 1 || width > image.width || height > image.height) continue;
    const auto top = static_cast<int>(rng.next_below(static_cast<uint64_t>(image.height - height) + 1));
    const auto left = static_cast<int>(rng.next_below(static_cast<uint64_t>(image.width - width) + 1));
    return cut(top, left, height, width);
  }
  int width = image.width, height = image.height;
  const double ratio = static_cast<double>(width) / height;
  if (ratio < options.ratio_min)
    height = std::clamp(rounded(width / options.ratio_min), 1, image.height);
  else if (ratio > options.ratio_max)
    width = std::clamp(rounded(height * options.ratio_max), 1, image.width);
  return cut((image.height - height) / 2, (image.width - width) / 2, height, width);
}

Image adjust_brightness(const Image& image, double factor) {
  return blended(image, factor, [](size_t) { return 0; });
}

Image adjust_contrast(const Image& image, double factor) {
  if (image.pixels.empty()) return image;
  const Image grey = to_channels(image, 1);
  uint64_t sum = 0;
  for (const uint8_t v : grey.pixels) sum += v;
  const int mean = static_cast<int>(static_cast<double>(sum) / static_cast<double>(grey.pixels.size()) + 0.5);
  return blended(image, factor, [mean](size_t) { return mean; });
}

Image adjust_saturation(const Image& image, double factor) {
  const Image grey = to_channels(image, 1);
  const auto channels = static_cast<size_t>(image.channels);
  return blended(image, factor, [&](size_t i) { return int{grey.pixels[i / channels]}; });
}

Image color_jitter(const Image& image, const ColorJitter& options, Rng rng) {
  struct Step {
    double strength;
    Image (*adjust)(const Image&, double);
  };
  std::array<Step, 3> steps{{{options.brightness, adjust_brightness},
                             {options.contrast, adjust_contrast},
                             {options.saturation, adjust_saturation}}};
  for (size_t i = steps.size() - 1; i > 0; --i) std::swap(steps[i], steps[rng.next_below(i + 1)]);
  Image out = image;
  for (const Step& step : steps) {
    const double factor = between(rng, std::max(0.0, 1 - step.strength), 1 + step.strength);
    if (step.strength > 0) out = step.adjust(out, factor);
  }
  return out;
}

void random_erase(float* chw, int channels, int height, int width, const RandomErasing& options, Rng rng) {
  if (rng.next_uniform() >= options.probability) return;
  const double area = static_cast<double>(height) * width;
  const double log_min = std::log(options.ratio_min), log_max = std::log(options.ratio_max);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * between(rng, options.area_min, options.area_max);
    const double ratio = std::exp(between(rng, log_min, log_max));
    const int rows = rounded(std::sqrt(target * ratio)), columns = rounded(std::sqrt(target / ratio));
    if (rows < 1 || columns < 1 || rows >= height || columns >= width) continue;
    const auto top = static_cast<int>(rng.next_below(static_cast<uint64_t>(height - rows) + 1));
    const auto left = static_cast<int>(rng.next_below(static_cast<uint64_t>(width - columns) + 1));
    for (int c = 0; c < channels; ++c)
      for (int y = top; y < top + rows; ++y) {
        float* p = chw + (static_cast<int64_t>(c) * height + y) * width + left;
        for (int x = 0; x < columns; ++x)
          p[x] = options.fill == EraseFill::kZero ? 0.0f : static_cast<float>(rng.next_normal());
      }
    return;
  }
}

Image augment(const Image& image, const Augment& options, int height, int width, Rng rng) {
  Image out;
  switch (options.crop) {
    case Augment::Crop::kNone: out = image; break;
    case Augment::Crop::kPadded: out = random_crop(image, height, width, options.padding, rng.fork(kCrop)); break;
    case Augment::Crop::kResized: {
      RandomResizedCrop resized = options.resized_crop;
      resized.height = height;
      resized.width = width;
      out = random_resized_crop(image, resized, rng.fork(kCrop));
      break;
    }
  }
  require(out.height == height && out.width == width,
          "augmentation got a picture of {}x{} for a model of {}x{}: fit it first", image.width, image.height, width,
          height);
  out = random_flip(out, rng.fork(kFlip), options.flip);
  const ColorJitter& color = options.color;
  if (color.brightness > 0 || color.contrast > 0 || color.saturation > 0)
    out = color_jitter(out, color, rng.fork(kColor));
  return out;
}

}  // namespace fovea
