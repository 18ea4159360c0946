#include <algorithm>

#include "core/text.h"
#include "models/config.h"

namespace fovea {

namespace {

struct VitRow {
  const char* size;
  int64_t dim, depth, heads;
};
constexpr VitRow kVitRows[] = {{"tiny", 192, 12, 3}, {"small", 384, 12, 6}, {"base", 768, 12, 12}, {"large", 1024, 24, 16}};

struct SwinRow {
  const char* size;
  int64_t dim;
  std::vector<int64_t> depths, heads;
  double drop_path;
  bool large_images;  // published for window 12 at 384 pixels
};
const SwinRow kSwinRows[] = {{"tiny", 96, {2, 2, 6, 2}, {3, 6, 12, 24}, 0.2, false},
                             {"small", 96, {2, 2, 18, 2}, {3, 6, 12, 24}, 0.3, false},
                             {"base", 128, {2, 2, 18, 2}, {4, 8, 16, 32}, 0.5, true},
                             {"large", 192, {2, 2, 18, 2}, {6, 12, 24, 48}, 0.5, true}};

struct CSwinRow {
  const char* size;
  int64_t dim;
  std::vector<int64_t> depths, heads;
  const char* depths_text;  // as the official names spell them
  double drop_path;
  bool large_images;  // published for 384 pixels, too
};
const CSwinRow kCSwinRows[] = {{"tiny", 64, {1, 2, 21, 1}, {2, 4, 8, 16}, "12211", 0.2, false},
                               {"small", 64, {2, 4, 32, 2}, {2, 4, 8, 16}, "24322", 0.4, false},
                               {"base", 96, {2, 4, 32, 2}, {4, 8, 16, 32}, "24322", 0.5, true},
                               {"large", 144, {2, 4, 32, 2}, {6, 12, 24, 24}, "24322", 0.5, true}};

void set_size(ModelConfig& c, int64_t size, double crop) {
  c.input.height = c.input.width = size;
  c.input.crop_pct = crop;
}

ModelPreset vit(const VitRow& row, int64_t size) {
  ModelConfig c;
  c.name = fmt::format("vit_{}_patch16_{}", row.size, size);
  c.dim = row.dim;
  c.depth = row.depth;
  c.heads = row.heads;
  c.input.mean = c.input.std = {0.5, 0.5, 0.5};
  set_size(c, size, size == 224 ? 0.9 : 1.0);
  return {c, fmt::format("ViT, patch 16, {} channels, {} blocks", row.dim, row.depth)};
}

ModelPreset deit(const VitRow& row, bool distilled, int64_t size) {
  ModelConfig c = vit(row, size).config;
  c.name = fmt::format("deit_{}{}_patch16_{}", row.size, distilled ? "_distilled" : "", size);
  c.distillation_token = distilled;
  c.input.mean = {0.485, 0.456, 0.406};
  c.input.std = {0.229, 0.224, 0.225};
  c.drop_path = 0.1;
  return {c, distilled ? "DeiT with a distillation token: two heads, averaged in evaluation" : "DeiT"};
}

ModelPreset swin(const SwinRow& row, int64_t window, int64_t size) {
  ModelConfig c;
  c.name = fmt::format("swin_{}_patch4_window{}_{}", row.size, window, size);
  c.family = "swin";
  c.attention = fmt::format("window:size={}", window);
  c.patch = 4;
  c.dim = row.dim;
  c.depths = row.depths;
  c.stage_heads = row.heads;
  c.norm_epsilon = 1e-5;
  c.drop_path = row.drop_path;
  set_size(c, size, size == 224 ? 0.9 : 1.0);
  return {c, fmt::format("Swin V1, windows of {0}x{0}, {1} channels in its first stage", window, row.dim)};
}

ModelPreset cswin(const CSwinRow& row, int64_t size) {
  ModelConfig c;
  c.name = fmt::format("cswin_{}_{}", row.size, size);
  c.family = "cswin";
  const int64_t stripe = size / 32;
  c.attention = fmt::format("cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:stripe={}/cross_shaped:branches=1", stripe);
  c.patch = 4;
  c.dim = row.dim;
  c.depths = row.depths;
  c.stage_heads = row.heads;
  c.norm_epsilon = 1e-5;
  c.drop_path = row.drop_path;
  set_size(c, size, size == 224 ? 0.9 : 1.0);
  ModelPreset p{c, fmt::format("CSWin, stripes of 1, 2, {} tokens, {} channels in its first stage", stripe, row.dim), {}};
  p.aliases.push_back(fmt::format("CSWin_{}_{}_{}_{}", row.dim, row.depths_text, row.size, size));
  if (size == 224) p.aliases.push_back(fmt::format("cswin_{}", row.size));
  return p;
}

// Published for windows of 8 and 16 at 256 pixels; larger images of the two large sizes were fine-tuned from windows of 12 at 192,
// where the last stage's map of 6 x 6 was one window.
ModelPreset swin_v2(const SwinRow& row, int64_t window, int64_t size, bool fine_tuned) {
  ModelConfig c = swin(row, window, size).config;
  c.name = fine_tuned ? fmt::format("swinv2_{}_window12to{}_192to{}", row.size, window, size)
                      : fmt::format("swinv2_{}_window{}_{}", row.size, window, size);
  c.swin_version = 2;
  c.attention = fmt::format("window_v2:size={}", window);
  if (fine_tuned) {
    const std::string early = c.attention + ":pretrained_window=12";
    c.attention = fmt::format("{0}/{0}/{0}/window_v2:size={1}:pretrained_window=6", early, window);
  }
  set_size(c, size, size == 384 ? 1.0 : 0.9);
  const std::string official = fmt::format("swinv2_{}_patch4_{}", row.size, c.name.substr(c.name.find("window")));
  return {c, fmt::format("Swin V2, windows of {0}x{0}, {1} channels in its first stage", window, row.dim), {official}};
}

ModelPreset vit_mini() {
  ModelConfig c;
  c.name = "vit_mini";
  c.convolutional_stem = true;
  c.patch = 4;
  c.dim = 128;
  c.depth = 6;
  c.heads = 4;
  c.mlp_ratio = 2;
  c.drop_path = 0.05;
  c.input.mean = c.input.std = {0.5, 0.5, 0.5};
  set_size(c, 32, 1.0);
  return {c, "ViT for images of 28 to 64 pixels; early-convolution stem, which learns faster from few images"};
}

ModelPreset swin_mini() {
  ModelConfig c;
  c.name = "swin_mini";
  c.family = "swin";
  c.convolutional_stem = true;
  c.attention = "window:size=7";
  c.patch = 4;
  c.dim = 64;
  c.depths = {2, 2};
  c.stage_heads = {2, 4};
  c.mlp_ratio = 2;
  c.norm_epsilon = 1e-5;
  c.drop_path = 0.05;
  c.input.mean = c.input.std = {0.5, 0.5, 0.5};
  set_size(c, 32, 1.0);
  return {c, "Swin for images of 28 to 64 pixels; early-convolution stem, which learns faster from few images"};
}

std::vector<ModelPreset> all_presets() {
  std::vector<ModelPreset> p = {vit_mini(), swin_mini()};
  for (const VitRow& row : kVitRows)
    for (const int64_t size : {224, 384}) p.push_back(vit(row, size));
  for (const VitRow& row : kVitRows) {
    if (row.dim > 768) continue;
    for (const bool distilled : {false, true}) p.push_back(deit(row, distilled, 224));
  }
  for (const bool distilled : {false, true}) p.push_back(deit(kVitRows[2], distilled, 384));
  for (const SwinRow& row : kSwinRows) {
    p.push_back(swin(row, 7, 224));
    if (row.large_images) p.push_back(swin(row, 12, 384));
  }
  for (const CSwinRow& row : kCSwinRows) {
    p.push_back(cswin(row, 224));
    if (row.large_images) p.push_back(cswin(row, 384));
  }
  for (const SwinRow& row : kSwinRows) {
    if (row.dim <= 128)
      for (const int64_t window : {8, 16}) p.push_back(swin_v2(row, window, 256, false));
    if (!row.large_images) continue;
    p.push_back(swin_v2(row, 12, 192, false));
    p.push_back(swin_v2(row, 16, 256, true));
    p.push_back(swin_v2(row, 24, 384, true));
  }
  for (const ModelPreset& preset : p) validate(preset.config);
  return p;
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> presets = all_presets();
  return presets;
}

const ModelPreset* find_preset(const std::string& name) {
  for (const ModelPreset& p : model_presets())
    if (p.config.name == name || std::find(p.aliases.begin(), p.aliases.end(), name) != p.aliases.end()) return &p;
  return nullptr;
}

ModelConfig preset_config(const std::string& name) {
  if (const ModelPreset* p = find_preset(name)) return p->config;
  std::vector<std::string> names;
  for (const ModelPreset& p : model_presets()) names.push_back(p.config.name);
  fail("there is no model '{}'{}; `fovea list models` shows them all", name, did_you_mean(name, names));
}

}  // namespace fovea
