// timm's names are ours, so nothing is renamed; what remains is to read the model off its shapes.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

// Everything keeps its name.
constexpr KeyRule kSame[] = {{"{*}", "{*}"}};

std::optional<RecognisedModel> recognise_timm(const WeightFile& file) {
  // A merge at the end of stage 0 or a bare head marks the other layout of Swin (see microsoft_swin.cc).
  if (file.find("layers.0.downsample.reduction.weight") == nullptr && file.find("head.weight") == nullptr)
    if (auto swin = recognise_swin(file, "head.fc.weight")) return swin;
  if (file.find("patch_embed.proj.weight") == nullptr || file.find("blocks.0.attn.qkv.weight") == nullptr) return std::nullopt;
  return recognise_vit(file, kSame, {}, {});
}

}  // namespace

namespace {

// A block's window, square, as far as its tensors tell: the bias table of version 1 has (2 w - 1)^2 rows; in version 2 only
// buffers depend on it, which newer files leave out.
std::optional<int64_t> window_of(const WeightFile& file, const std::string& attention) {
  const int64_t offsets = dimension(file, attention + "relative_position_bias_table", 0);
  if (const auto span = exact_root(offsets); offsets > 0 && span && *span % 2 == 1) return (*span + 1) / 2;
  const int64_t rows = dimension(file, attention + "relative_coords_table", 1), columns = dimension(file, attention + "relative_coords_table", 2);
  if (offsets == 0 && rows > 0 && rows == columns && rows % 2 == 1) return (rows + 1) / 2;
  const int64_t tokens = dimension(file, attention + "relative_position_index", 0);
  if (const auto side = exact_root(tokens); offsets == 0 && tokens > 0 && side) return *side;
  return std::nullopt;
}

// What version 2 measures its offsets against, from the largest of them: t = log8(8 (w - 1) / (w' - 1) + 1).
std::optional<int64_t> pretrained_window_of(const WeightFile& file, const std::string& attention, int64_t window) {
  const std::string name = attention + "relative_coords_table";
  const WeightTensor* table = file.find(name);
  if (table == nullptr || table->shape.elements() < 1 || window < 2) return std::nullopt;
  std::vector<float> values(static_cast<size_t>(table->shape.elements()));
  file.read_f32(name, values.data());
  const double u = std::exp2(3.0 * static_cast<double>(*std::ranges::max_element(values))) - 1;
  if (!(u > 1e-3)) return std::nullopt;
  return 1 + std::llround(8.0 * static_cast<double>(window - 1) / u);
}

}  // namespace

std::vector<std::string_view> swin_buffers() {
  return {"layers.{s}.blocks.{b}.attn.relative_position_index", "layers.{s}.blocks.{b}.attn.relative_coords_table", "layers.{s}.blocks.{b}.attn_mask"};
}

std::optional<RecognisedModel> recognise_swin(const WeightFile& file, std::string_view head) {
  const WeightTensor* patches = file.find("patch_embed.proj.weight");
  if (patches == nullptr || patches->shape.rank() != 4) return std::nullopt;
  const int64_t version = file.find("layers.0.blocks.0.attn.cpb_mlp.0.weight") != nullptr ? 2 : 1;
  std::vector<int64_t> depths, heads, windows, pretrained;
  while (true) {
    const std::string stage = fmt::format("layers.{}.blocks.", depths.size()), attention = stage + "0.attn.";
    const int64_t depth = count_keys(file, stage + "{i}.attn.qkv.weight");
    if (depth == 0) break;
    const WeightTensor* per_head = file.find(attention + (version == 2 ? "logit_scale" : "relative_position_bias_table"));
    if (per_head == nullptr || per_head->shape.rank() != (version == 2 ? 3 : 2)) return std::nullopt;
    depths.push_back(depth);
    heads.push_back(per_head->shape[version == 2 ? 0 : 1]);
    const auto window = window_of(file, attention);
    if (!window) continue;
    windows.push_back(*window);
    if (const auto reference = version == 2 ? pretrained_window_of(file, attention, *window) : std::nullopt) pretrained.push_back(*reference);
  }
  if (depths.empty()) return std::nullopt;

  RecognisedModel m;
  m.kind = "swin";
  m.facts["swin_version"] = version;
  m.facts["dim"] = patches->shape[0];
  m.facts["patch_size"] = patches->shape[2];
  m.facts["in_channels"] = patches->shape[1];
  m.facts["depths"] = fmt::format("{}", fmt::join(depths, ","));
  m.facts["num_heads"] = fmt::format("{}", fmt::join(heads, ","));
  m.facts["mlp_width"] = dimension(file, "layers.0.blocks.0.mlp.fc1.weight", 0);
  m.facts["num_classes"] = dimension(file, head, 0);
  m.facts["qkv_bias"] = int64_t{file.find(fmt::format("layers.0.blocks.0.attn.{}", version == 2 ? "q_bias" : "qkv.bias")) != nullptr};
  m.facts["norm_eps"] = 1e-5;
  m.assumed.push_back("norm_eps");
  if (windows.size() == depths.size()) m.facts["window_sizes"] = fmt::format("{}", fmt::join(windows, ","));
  else m.unknown.push_back("window_sizes");
  if (pretrained.size() == depths.size()) m.facts["pretrained_windows"] = fmt::format("{}", fmt::join(pretrained, ","));
  m.unknown.insert(m.unknown.end(), {"image_size", "mean", "std"});
  return m;
}

Dialect timm_dialect() {
  return {"timm",
          {std::begin(kSame), std::end(kSame)},
          swin_buffers(),
          recognise_timm,
          {{"vit", {"patch_embed.proj.weight", "pos_embed", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight", "blocks.{i}.mlp.fc1.weight"}},
           {"deit_distilled", {"patch_embed.proj.weight", "dist_token", "head_dist.weight", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight"}},
           {"deit", {"patch_embed.proj.weight", "dist_token", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight"}},
           {"swin", {"patch_embed.proj.weight", "layers.{s}.blocks.{b}.attn.qkv.weight", "layers.1.downsample.reduction.weight", "head.fc.weight"}}}};
}

}  // namespace fovea
