// Random changes for training. Each is a pure function of the picture and the generator it is given: the same seed and
// stream give the same bytes, whatever the thread.
#pragma once

#include "core/rng.h"
#include "image/image.h"
#include "image/resize.h"

namespace fovea {

Image flip_horizontal(const Image& image);

// Mirrors with the given probability.
Image random_flip(const Image& image, Rng rng, double probability = 0.5);

// Pads each side with `padding` pixels of `value` and cuts a random height x width from it (small pictures).
Image random_crop(const Image& image, int height, int width, int padding, Rng rng, uint8_t value = 0);

// torchvision's RandomResizedCrop: a region of scale_min..scale_max of the area and ratio_min..ratio_max (log-uniform)
// width / height, resized to height x width; ten tries, then the largest centred region within the ratios.
struct RandomResizedCrop {
  int height = 224, width = 224;
  double scale_min = 0.08, scale_max = 1.0;
  double ratio_min = 3.0 / 4.0, ratio_max = 4.0 / 3.0;
  Interpolation interpolation = Interpolation::kBicubic;
};
Image random_resized_crop(const Image& image, const RandomResizedCrop& options, Rng rng);

// Pillow's ImageEnhance: 0 is black, flat grey (the picture's mean) or colourless; 1 is the picture itself. Factors >= 0.
Image adjust_brightness(const Image& image, double factor);
Image adjust_contrast(const Image& image, double factor);
Image adjust_saturation(const Image& image, double factor);

// Brightness, contrast and saturation, each by a factor of [max(0, 1 - x), 1 + x], in random order; x = 0 leaves one out.
struct ColorJitter {
  double brightness = 0, contrast = 0, saturation = 0;
};
Image color_jitter(const Image& image, const ColorJitter& options, Rng rng);

// Random erasing (Zhong et al. 2017): with `probability` one rectangle of the normalised picture chw [channels, height,
// width] is overwritten with zeros or with N(0, 1) noise per pixel.
enum class EraseFill : uint8_t { kZero, kNoise };
struct RandomErasing {
  double probability = 0;
  double area_min = 0.02, area_max = 1.0 / 3.0;
  double ratio_min = 0.3, ratio_max = 1 / 0.3;
  EraseFill fill = EraseFill::kNoise;
};
void random_erase(float* chw, int channels, int height, int width, const RandomErasing& options, Rng rng);

// What training does to one picture, in this order: crop, flip, colour; then, on the normalised picture, erasing.
struct Augment {
  enum class Crop : uint8_t { kNone, kPadded, kResized };
  Crop crop = Crop::kNone;
  int padding = 4;                 // kPadded
  RandomResizedCrop resized_crop;  // kResized; its size is replaced by the model's
  double flip = 0.5;               // probability
  ColorJitter color;
  RandomErasing erasing;
};

// All but the erasing, for a model of height x width. With kNone and kPadded the picture must have that size already.
Image augment(const Image& image, const Augment& options, int height, int width, Rng rng);

}  // namespace fovea
