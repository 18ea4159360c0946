// How a model's configuration says that pictures become its input.
#pragma once

#include "image/transforms.h"
#include "models/config.h"

namespace fovea {

// For an input of height x width, which may be another size than the configuration's own.
inline Preprocess preprocess_of(const InputConfig& input, int64_t height, int64_t width) {
  Preprocess p;
  p.height = static_cast<int>(height);
  p.width = static_cast<int>(width);
  p.channels = static_cast<int>(input.channels);
  p.crop_pct = input.crop_pct;
  p.interpolation = interpolation_of(input.interpolation);
  p.mode = input.resize == "squash" ? ResizeMode::kSquash : ResizeMode::kShortSide;
  p.mean.assign(input.mean.begin(), input.mean.end());
  p.std.assign(input.std.begin(), input.std.end());
  return p;
}

}  // namespace fovea
