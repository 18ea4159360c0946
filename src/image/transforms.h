// From a picture to a model's input, with the geometry and the rounding of torchvision, timm and Hugging Face.
#pragma once

#include <utility>
#include <vector>

#include "image/image.h"
#include "image/resize.h"

namespace fovea {

// How a picture of any shape comes to the model's height x width.
enum class ResizeMode : uint8_t {
  kShortSide,  // timm, torchvision: short side to floor(size / crop_pct), then centre crop
  kSquash,     // Hugging Face: straight to the model's size, whatever the aspect ratio
  kNone,       // centre crop or pad only
};

// What a checkpoint's evaluation does to a picture. mean and std have one value per channel, in units of 0..1 samples.
struct Preprocess {
  int height = 224, width = 224;
  double crop_pct = 0.875;
  Interpolation interpolation = Interpolation::kBicubic;
  ResizeMode mode = ResizeMode::kShortSide;
  std::vector<float> mean{0.485f, 0.456f, 0.406f}, std{0.229f, 0.224f, 0.225f};
  int channels = 3;
};

// (width, height) after torchvision's Resize(size): the short side becomes `size`, the long one int(size * long / short).
std::pair<int, int> short_side_size(int width, int height, int size);

// The size timm scales to before the crop: floor(size / crop_pct).
int scale_size(int size, double crop_pct);

Image resize_short_side(const Image& image, int size, Interpolation interpolation);
// torchvision's CenterCrop: smaller pictures are padded with zeros first; offsets round half to even.
Image center_crop(const Image& image, int height, int width);
// Rows [top, top + height), columns [left, left + width); the region must lie inside.
Image crop(const Image& image, int top, int left, int height, int width);
// `left`, `top`, `right`, `bottom` pixels of `value` around the picture.
Image pad(const Image& image, int left, int top, int right, int bottom, uint8_t value = 0);

// RGB -> grey (ITU-R 601-2 as Pillow's convert("L")) or grey -> RGB; returns the picture itself when nothing is to do.
Image to_channels(const Image& image, int channels);

// chw [channels, height, width] = (pixel / 255 - mean[c]) / std[c], in float32 in this order. Throws Error when mean or
// std has not one value per channel.
void normalize(const Image& image, const std::vector<float>& mean, const std::vector<float>& std, float* chw);

// The geometric part: an image of exactly height x width x channels.
Image fit(const Image& image, const Preprocess& preprocess);
// fit + normalize; chw [channels, height, width].
void preprocess(const Image& image, const Preprocess& preprocess, float* chw);

}  // namespace fovea
