// Swin, Swin V2 and CSWin as published.
#include "models/presets.h"

namespace fovea {

namespace {

struct SwinRow {
  const char* size;
  int64_t dim;
  std::vector<int64_t> depths, heads;
  double drop_path;
  bool large_images;  // published for window 12 at 384 pixels, and in version 2 for what was trained at 192
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

// Before fine-tuning, with a head for all of ImageNet. `official`: what its authors call it.
constexpr int64_t kClasses22k = 21841;
ModelPreset for_22k(ModelPreset p, const std::string& official = "") {
  const std::string name = p.config.name;
  p.config.name += "_22k";
  p.config.classes = kClasses22k;
  p.summary += ", ImageNet-22k";
  p.aliases = {name + "_in22k", name + ".ms_in22k"};
  if (!official.empty()) p.aliases.push_back(official);
  return p;
}

// What a row of either table says, for images of `size` pixels.
template <class Row>
ModelConfig stages_of(const Row& row, const char* family, int64_t size) {
  ModelConfig c;
  c.family = family;
  c.patch = 4;
  c.dim = row.dim;
  c.depths = row.depths;
  c.stage_heads = row.heads;
  c.norm_epsilon = 1e-5;
  c.drop_path = row.drop_path;
  set_input_size(c, size, size == 224 ? 0.9 : 1.0);
  return c;
}

ModelPreset swin(const SwinRow& row, int64_t window, int64_t size) {
  ModelConfig c = stages_of(row, "swin", size);
  c.name = fmt::format("swin_{}_patch4_window{}_{}", row.size, window, size);
  c.attention = fmt::format("window:size={}", window);
  return {c, fmt::format("Swin V1, windows of {0}x{0}, {1} channels in its first stage", window, row.dim)};
}

ModelPreset cswin(const CSwinRow& row, int64_t size) {
  ModelConfig c = stages_of(row, "cswin", size);
  c.name = fmt::format("cswin_{}_{}", row.size, size);
  const int64_t stripe = size / 32;
  c.attention = fmt::format("cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:stripe={}/cross_shaped:branches=1", stripe);
  ModelPreset p{c, fmt::format("CSWin, stripes of 1, 2, {} tokens, {} channels in its first stage", stripe, row.dim), {}};
  p.aliases.push_back(fmt::format("CSWin_{}_{}_{}_{}", row.dim, row.depths_text, row.size, size));
  if (size == 224) p.aliases.push_back(fmt::format("cswin_{}", row.size));
  return p;
}

// Windows found by search (Chen et al. 2021, 2111.14725, "S3"); they differ from stage to stage.
struct SearchedRow {
  const char* size;
  std::vector<int64_t> depths, windows;
};
const SearchedRow kSearchedRows[] = {{"tiny", {2, 2, 6, 2}, {7, 7, 14, 7}}, {"small", {2, 2, 18, 2}, {14, 14, 14, 7}}, {"base", {2, 2, 30, 2}, {7, 7, 14, 7}}};

ModelPreset searched_swin(const SearchedRow& row) {
  ModelConfig c = swin(kSwinRows[0], 7, 224).config;
  c.name = fmt::format("swin_s3_{}_224", row.size);
  c.depths = row.depths;
  std::vector<std::string> stages;
  for (const int64_t w : row.windows) stages.push_back(fmt::format("window:size={}", w));
  c.attention = fmt::format("{}", fmt::join(stages, "/"));
  return {c, fmt::format("Swin V1 with searched windows of {}, {} channels in its first stage", fmt::join(row.windows, ", "), c.dim)};
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
  set_input_size(c, size, size == 384 ? 1.0 : 0.9);
  const std::string official = fmt::format("swinv2_{}_patch4_{}", row.size, c.name.substr(c.name.find("window")));
  return {c, fmt::format("Swin V2, windows of {0}x{0}, {1} channels in its first stage", window, row.dim), {official}};
}

// torchvision's weights: the images' shorter side becomes `resize`, which differs from model to model, before the crop.
struct TorchvisionRow {
  const char* name;
  size_t row;  // of kSwinRows
  bool second;
  int64_t resize;
};
constexpr TorchvisionRow kTorchvisionRows[] = {{"swin_t", 0, false, 232},    {"swin_s", 1, false, 246},    {"swin_b", 2, false, 238},
                                               {"swin_v2_t", 0, true, 260}, {"swin_v2_s", 1, true, 260}, {"swin_v2_b", 2, true, 272}};

ModelPreset torchvision_swin(const TorchvisionRow& row) {
  const int64_t size = row.second ? 256 : 224;
  ModelPreset p = row.second ? swin_v2(kSwinRows[row.row], 8, size, false) : swin(kSwinRows[row.row], 7, size);
  ModelConfig& c = p.config;
  c.name = row.name;
  c.attention += ":rule=torchvision";
  c.patch_rest = "drop";
  c.input.resize_size = {row.resize};
  set_input_size(c, size, static_cast<double>(size) / static_cast<double>(row.resize));
  p.summary += ", torchvision's";
  p.aliases.clear();
  return p;
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
  set_input_size(c, 32, 1.0);
  return {c, "Swin for images of 28 to 64 pixels; early-convolution stem, which learns faster from few images"};
}

}  // namespace

std::vector<ModelPreset> swin_presets() {
  std::vector<ModelPreset> p = {swin_mini()};
  for (const SwinRow& row : kSwinRows) {
    for (const auto& [window, size] : {std::pair<int64_t, int64_t>{7, 224}, {12, 384}}) {
      if (size == 384 && !row.large_images) continue;
      p.push_back(swin(row, window, size));
      p.push_back(for_22k(p.back()));
    }
  }
  for (const SearchedRow& row : kSearchedRows) p.push_back(searched_swin(row));
  for (const CSwinRow& row : kCSwinRows) {
    p.push_back(cswin(row, 224));
    if (!row.large_images) continue;
    p.push_back(for_22k(p.back(), fmt::format("cswin_{}_22k_224", row.size)));
    p.push_back(cswin(row, 384));
  }
  for (const SwinRow& row : kSwinRows) {
    if (row.dim <= 128)
      for (const int64_t window : {8, 16}) p.push_back(swin_v2(row, window, 256, false));
    if (!row.large_images) continue;
    p.push_back(swin_v2(row, 12, 192, false));
    p.push_back(for_22k(p.back(), fmt::format("swinv2_{}_patch4_window12_192_22k", row.size)));
    p.push_back(swin_v2(row, 16, 256, true));
    p.push_back(swin_v2(row, 24, 384, true));
  }
  for (const TorchvisionRow& row : kTorchvisionRows) p.push_back(torchvision_swin(row));
  return p;
}

}  // namespace fovea
