#include "tasks/preprocess.h"

#include <algorithm>

#include "core/check.h"

namespace fovea {

namespace {

ResizeMode resize_mode_of(const std::string& name) {
  if (name == "shorter") return ResizeMode::kShortSide;
  if (name == "squash") return ResizeMode::kSquash;
  if (name == "border") return ResizeMode::kBorder;
  require(name == "none", "there is no resize '{}'; choose shorter, squash, border or none", name);
  return ResizeMode::kNone;
}

int rescaled(int64_t size, int64_t to, int64_t from) { return static_cast<int>(std::max<int64_t>(1, size * to / from)); }

}  // namespace

Preprocess preprocess_of(const InputConfig& input, int64_t height, int64_t width) {
  Preprocess p;
  p.height = static_cast<int>(height);
  p.width = static_cast<int>(width);
  p.channels = static_cast<int>(input.channels);
  p.crop_pct = input.crop_pct;
  if (!input.resize_size.empty()) {
    p.resize_height = rescaled(input.resize_size.front(), height, input.height);
    p.resize_width = rescaled(input.resize_size.back(), width, input.width);
  }
  p.interpolation = interpolation_of(input.interpolation);
  p.mode = resize_mode_of(input.resize);
  p.rounding = input.crop_rounding == "down" ? CropRounding::kDown : CropRounding::kEven;
  p.mean = input.mean;
  p.std = input.std;
  return p;
}

void require_pictures(const InputConfig& input) {
  require(takes_pictures(input), "the model takes images of {} channels, and pictures have 1 or 3; `fovea features` takes others as arrays [batch,] channels, height, width (.npy, .safetensors)",
          input.channels);
}

std::vector<std::pair<std::string, std::string>> preprocessing_facts(const InputConfig& input) {
  std::vector<std::pair<std::string, std::string>> facts = {{"resize", input.resize}};
  if (input.resize_size.empty()) facts.emplace_back("crop", fmt::format("{}", input.crop_pct));
  else facts.emplace_back("resize_size", fmt::format("{}", fmt::join(input.resize_size, ",")));
  facts.emplace_back("interpolation", input.interpolation);
  if (input.crop_rounding != InputConfig().crop_rounding) facts.emplace_back("crop_rounding", input.crop_rounding);
  facts.emplace_back("mean", fmt::format("{}", fmt::join(input.mean, ",")));
  facts.emplace_back("std", fmt::format("{}", fmt::join(input.std, ",")));
  return facts;
}

}  // namespace fovea
