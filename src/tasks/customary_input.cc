#include "tasks/customary_input.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace fovea {

namespace {

struct Statistics {
  double mean[3], std[3];
};
constexpr Statistics kImageNet{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}}, kHalf{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
    kClip{{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

// The first row that fits is taken. Sources: torchvision's weights.transforms(), the preprocessor_config.json of published checkpoints and the
// defaults of transformers' processors, Microsoft's evaluation code (int(256 / 224 * size) below 384 pixels; these whole), mmpretrain's
// configurations, the evaluation code of facebookresearch, OpenCLIP and big_vision.
struct Custom {
  std::string_view home;     // the dialect's name begins with it
  std::string_view family;   // "" any
  bool (*fits)(const ModelConfig&);
  int64_t scaled, of;        // the size before the crop for pictures of `of` pixels; 0: `crop` says it
  double crop;
  const char *resize, *interpolation, *rounding;
  const Statistics& statistics = kImageNet;
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
    {"torchvision", "vit", any, 0, 0, 224.0 / 256, "shorter", "bilinear", "even"},
    {"huggingface", "swin", any, 0, 0, 1, "squash", "bicubic", "down"},
    {"huggingface-vit", "vit", any, 0, 0, 1, "squash", "bilinear", "down", kHalf},
    {"huggingface-deit", "vit", any, 0, 0, 224.0 / 256, "squash", "bicubic", "down"},
    {"huggingface-dinov2", "vit", any, 0, 0, 224.0 / 256, "shorter", "bicubic", "down"},
    {"huggingface-clip", "vit", any, 0, 0, 1, "shorter", "bicubic", "down", kClip},
    {"huggingface-siglip", "vit", any, 0, 0, 1, "squash", "bicubic", "down", kHalf},
    {"microsoft-swin", "swin", large, 0, 0, 1, "squash", "bicubic", "even"},
    {"microsoft-swin", "swin", any, 256, 224, 1, "shorter", "bicubic", "even"},
    {"mmpretrain", "swin", large, 0, 0, 1, "squash", "bicubic", "even"},
    {"mmpretrain", "swin", any, 256, 224, 1, "shorter", "bicubic", "even"},
    {"mmpretrain", "vit", any, 0, 0, 224.0 / 256, "shorter", "bicubic", "even", kHalf},
    {"jax", "vit", any, 0, 0, 0.9, "shorter", "bicubic", "even", kHalf},
    {"facebook-deit3", "vit", any, 0, 0, 0.9, "shorter", "bicubic", "even"},
    {"facebook-dinov2", "vit", any, 0, 0, 224.0 / 256, "shorter", "bicubic", "even"},
    {"openclip", "vit", any, 0, 0, 1, "shorter", "bicubic", "even", kClip},
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
  input.mean.assign(std::begin(custom.statistics.mean), std::end(custom.statistics.mean));
  input.std.assign(std::begin(custom.statistics.std), std::end(custom.statistics.std));
  if (input.channels != 3) input.mean = input.std = std::vector<double>(static_cast<size_t>(std::max<int64_t>(1, input.channels)), 0.5);
  constexpr int64_t kSmall = 64;
  if (input.height <= kSmall && (custom.home.empty() || config.family != "vit")) {  // small images are used whole, unless a home always crops
    input.crop_pct = 1;
    input.resize_size.clear();
  }
}

}  // namespace fovea
