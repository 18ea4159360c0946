// ViT and DeiT as published.
#include "models/presets.h"

namespace fovea {

namespace {

struct VitRow {
  const char* size;
  int64_t dim, depth, heads;
};
constexpr VitRow kVitRows[] = {{"tiny", 192, 12, 3}, {"small", 384, 12, 6}, {"base", 768, 12, 12}, {"large", 1024, 24, 16}};

ModelPreset vit(const VitRow& row, int64_t size) {
  ModelConfig c;
  c.name = fmt::format("vit_{}_patch16_{}", row.size, size);
  c.dim = row.dim;
  c.depth = row.depth;
  c.heads = row.heads;
  c.input.mean = c.input.std = {0.5, 0.5, 0.5};
  set_input_size(c, size, size == 224 ? 0.9 : 1.0);
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
  set_input_size(c, 32, 1.0);
  return {c, "ViT for images of 28 to 64 pixels; early-convolution stem, which learns faster from few images"};
}

}  // namespace

std::vector<ModelPreset> vit_presets() {
  std::vector<ModelPreset> p = {vit_mini()};
  for (const VitRow& row : kVitRows)
    for (const int64_t size : {224, 384}) p.push_back(vit(row, size));
  for (const VitRow& row : kVitRows) {
    if (row.dim > 768) continue;
    for (const bool distilled : {false, true}) p.push_back(deit(row, distilled, 224));
  }
  for (const bool distilled : {false, true}) p.push_back(deit(kVitRows[2], distilled, 384));
  return p;
}

}  // namespace fovea
