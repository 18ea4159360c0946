// From a picture to a model's input, with the geometry and the rounding of torchvision, timm and Hugging Face.
#pragma once

#include <utility>
#include <vector>

#include "image/image.h"
#include "image/resize.h"

namespace fovea {

// How a picture of any shape comes to the model's height x width: it is brought to a scaled size, then cropped or padded.
enum class ResizeMode : uint8_t {
  kShortSide,  // torchvision, timm's "center": the smallest picture of the same aspect that covers the scaled size
  kSquash,     // Hugging Face, timm's "squash": exactly the scaled size, whatever the aspect ratio
  kBorder,     // timm's "border": the largest picture of the same aspect inside the scaled size; the mean's colour around it
  kNone,       // no scaling
};

// Where a centre crop begins when a side has an odd number of pixels too many or too few.
enum class CropRounding : uint8_t {
  kEven,  // torchvision, timm: half a pixel goes to the even neighbour; padding has its odd pixel behind
  kDown,  // Hugging Face: down; padding has its odd pixel in front
};

// What a checkpoint's evaluation does to a picture. mean and std have one value per channel, in units of 0..1 samples.
struct Preprocess {
  int height = 224, width = 224;
  double crop_pct = 0.875;                  // the scaled size is floor(size / crop_pct), unless the next two say it
  int resize_height = 0, resize_width = 0;  // 0: by crop_pct
  Interpolation interpolation = Interpolation::kBicubic;
  ResizeMode mode = ResizeMode::kShortSide;
  CropRounding rounding = CropRounding::kEven;
  std::vector<double> mean{0.485, 0.456, 0.406}, std{0.229, 0.224, 0.225};
  int channels = 3;
};

// Where the model's input lies in a scaled picture.
struct Placement {
  int width = 0, height = 0;  // the whole picture after scaling
  int left = 0, top = 0;      // of the input in it; negative: so many pixels of padding come first
};

// For a picture of width x height. Throws Error for a crop_pct out of range and where nothing is left of a side or it gets
// too long for any picture.
Placement placement_of(int width, int height, const Preprocess& preprocess);

// (width, height) after torchvision's Resize(size): the short side becomes `size`, the long one int(size * long / short).
// Throws Error when the long one gets too long.
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

// chw [channels, height, width] = (pixel / 255 - mean[c]) / std[c], in float32 in this order, as torchvision's ToTensor and
// Normalize. Throws Error when mean or std has not one value per channel.
void normalize(const Image& image, const std::vector<double>& mean, const std::vector<double>& std, float* chw);

// The geometric part: an image of exactly height x width x channels. Only the pixels that stay are resized.
Image fit(const Image& image, const Preprocess& preprocess);
// Whether fit() would return the picture as it is.
bool is_fitted(const Image& image, const Preprocess& preprocess);
// fit + normalize; chw [channels, height, width].
void preprocess(const Image& image, const Preprocess& preprocess, float* chw);

}  // namespace fovea
