#include "tasks/customary_input.h"

#include <algorithm>
#include <vector>

namespace fovea {

namespace {

// The first row that fits is taken; what ViTs of a home differ in is set by set_customary_fitting(). Sources: torchvision's
// weights.transforms(), the preprocessor_config.json of microsoft/swin checkpoints, Microsoft's evaluation code (int(256 / 224 * size) below
// 384 pixels; these whole), mmpretrain's configurations.
struct Custom {
  std::string_view home;     // the dialect's name begins with it
  std::string_view family;   // "" any
  bool (*fits)(const ModelConfig&);
  int64_t scaled, of;        // the size before the crop for pictures of `of` pixels; 0: `crop` says it
  double crop;
  const char *resize, *interpolation, *rounding;
};

bool any(const ModelConfig&) { return true; }
bool large(const ModelConfig& c) { return c.input.height >= 384; }
bool second(const ModelConfig& c) { return c.swin_v2(); }
bool wide(const ModelConfig& c) { return c.dim >= 128; }
bool deep(const ModelConfig& c) { return c.depths.size() == 4 && c.depths[2] > 6; }
bool wide_second(const ModelConfig& c) { return second(c) && wide(c); }

constexpr Custom kCustoms[] = {
    {"torchvision", "swin", wide_second, 272, 256, 1, "shorter", "bicubic", "even"},
    {"torchvision", "swin", second, 260, 256, 1, "shorter", "bicubic", "even"},
    {"torchvision", "swin", wide, 238, 224, 1, "shorter", "bicubic", "even"},
    {"torchvision", "swin", deep, 246, 224, 1, "shorter", "bicubic", "even"},
    {"torchvision", "swin", any, 232, 224, 1, "shorter", "bicubic", "even"},
    {"huggingface", "swin", any, 0, 0, 1, "squash", "bicubic", "down"},
    {"microsoft-swin", "swin", large, 0, 0, 1, "squash", "bicubic", "even"},
    {"microsoft-swin", "swin", any, 256, 224, 1, "shorter", "bicubic", "even"},
    {"mmpretrain", "swin", large, 0, 0, 1, "squash", "bicubic", "even"},
    {"mmpretrain", "swin", any, 256, 224, 1, "shorter", "bicubic", "even"},
    {"", "", large, 0, 0, 1, "shorter", "bicubic", "even"},
    {"", "", any, 0, 0, 0.9, "shorter", "bicubic", "even"},
};

}  // namespace

void apply_customs(std::string_view dialect, ModelConfig& config) {
  InputConfig& input = config.input;
  const Custom& custom = *std::find_if(std::begin(kCustoms), std::end(kCustoms), [&](const Custom& c) {
    return dialect.starts_with(c.home) && (c.family.empty() || c.family == config.family) && c.fits(config);
  });
  input.crop_pct = custom.crop;
  input.resize_size.clear();
  if (custom.scaled > 0) input.resize_size = {custom.scaled * std::min(input.height, input.width) / custom.of};
  input.resize = custom.resize;
  input.interpolation = custom.interpolation;
  input.crop_rounding = custom.rounding;
  const auto channels = static_cast<size_t>(std::max<int64_t>(1, input.channels));
  if (channels != 3) {
    input.mean = input.std = std::vector<double>(channels, 0.5);
  } else {
    input.mean = InputConfig().mean;
    input.std = InputConfig().std;
  }
  constexpr int64_t kSmall = 64;
  if (input.height <= kSmall) {  // small images are used whole
    input.crop_pct = 1;
    input.resize_size.clear();
  }
}

}  // namespace fovea
