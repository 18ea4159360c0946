// timm's names are ours, so nothing is renamed; what remains is to read the model off its shapes.
#include "core/check.h"
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

std::optional<RecognisedModel> recognise_vit(const WeightFile& file) {
  const WeightTensor* patches = file.find("patch_embed.proj.weight");
  const int64_t depth = count_keys(file, "blocks.{i}.attn.qkv.weight");
  if (patches == nullptr || patches->shape.rank() != 4 || depth == 0 || count_keys(file, "blocks.{i}.norm1.weight") != depth)
    return std::nullopt;

  RecognisedModel m;
  const bool distilled = file.find("dist_token") != nullptr, class_token = file.find("cls_token") != nullptr;
  const int64_t dim = patches->shape[0], patch = patches->shape[2];
  const int64_t registers = dimension(file, "reg_token", 1), tokens = dimension(file, "pos_embed", 1);
  const int64_t prefix = (class_token ? 1 : 0) + (distilled ? 1 : 0) + registers;
  const int64_t width = dimension(file, "blocks.0.attn.qkv.weight", 0) / 3;
  m.kind = distilled ? "deit_distilled" : "vit";
  m.facts["dim"] = dim;
  m.facts["depth"] = depth;
  m.facts["patch_size"] = patch;
  m.facts["in_channels"] = patches->shape[1];
  m.facts["attention_width"] = width;
  m.facts["mlp_width"] = dimension(file, "blocks.0.mlp.fc1.weight", 0);
  m.facts["num_classes"] = dimension(file, "head.weight", 0);
  m.facts["tokens"] = tokens;
  m.facts["prefix_tokens"] = prefix;
  m.facts["class_token"] = int64_t{class_token};
  m.facts["register_tokens"] = registers;
  m.facts["qkv_bias"] = int64_t{file.find("blocks.0.attn.qkv.bias") != nullptr};
  m.facts["qk_norm"] = int64_t{file.find("blocks.0.attn.q_norm.weight") != nullptr};
  m.facts["layer_scale"] = int64_t{file.find("blocks.0.ls1.gamma") != nullptr};
  m.facts["pool"] = std::string(file.find("fc_norm.weight") != nullptr || !class_token ? "avg" : "token");
  m.facts["norm_eps"] = 1e-6;
  m.assumed.push_back("norm_eps");
  if (const auto side = exact_root(tokens - prefix); side && *side > 0) {
    m.facts["image_size"] = *side * patch;
  } else if (const auto bare = exact_root(tokens); bare && *bare > 0) {  // a table without rows for the prefix tokens
    m.facts["image_size"] = *bare * patch;
  } else {
    m.unknown.push_back("image_size");
  }
  constexpr int64_t kHeadDim = 64;  // of every ViT and DeiT from tiny to large
  if (const int64_t head_dim = dimension(file, "blocks.0.attn.q_norm.weight", 0); head_dim > 0) {
    m.facts["num_heads"] = width / head_dim;
  } else if (width % kHeadDim == 0) {
    m.facts["num_heads"] = width / kHeadDim;
    m.assumed.push_back("num_heads");
  } else {
    m.unknown.push_back("num_heads");
  }
  m.unknown.insert(m.unknown.end(), {"mean", "std"});
  return m;
}

std::optional<RecognisedModel> recognise_timm(const WeightFile& file) {
  // A merge at the end of stage 0 or a bare head marks the other layout of Swin (see microsoft_swin.cc).
  if (file.find("layers.0.downsample.reduction.weight") == nullptr && file.find("head.weight") == nullptr)
    if (auto swin = recognise_swin(file, "head.fc.weight")) return swin;
  return recognise_vit(file);
}

}  // namespace

std::optional<RecognisedModel> recognise_swin(const WeightFile& file, std::string_view head) {
  const WeightTensor* patches = file.find("patch_embed.proj.weight");
  if (patches == nullptr || patches->shape.rank() != 4) return std::nullopt;
  std::vector<int64_t> depths, heads, windows;
  bool square = true;
  while (true) {
    const std::string stage = fmt::format("layers.{}.blocks.", depths.size());
    const int64_t depth = count_keys(file, stage + "{i}.attn.qkv.weight");
    if (depth == 0) break;
    const WeightTensor* table = file.find(stage + "0.attn.relative_position_bias_table");
    if (table == nullptr || table->shape.rank() != 2) return std::nullopt;
    depths.push_back(depth);
    heads.push_back(table->shape[1]);
    // The table has (2 wh - 1)(2 ww - 1) rows.
    const auto span = exact_root(table->shape[0]);
    square = square && span && *span % 2 == 1;
    windows.push_back(square ? (*span + 1) / 2 : 0);
  }
  if (depths.empty()) return std::nullopt;

  RecognisedModel m;
  m.kind = "swin";
  m.facts["dim"] = patches->shape[0];
  m.facts["patch_size"] = patches->shape[2];
  m.facts["in_channels"] = patches->shape[1];
  m.facts["depths"] = fmt::format("{}", fmt::join(depths, ","));
  m.facts["num_heads"] = fmt::format("{}", fmt::join(heads, ","));
  m.facts["mlp_width"] = dimension(file, "layers.0.blocks.0.mlp.fc1.weight", 0);
  m.facts["num_classes"] = dimension(file, head, 0);
  m.facts["qkv_bias"] = int64_t{file.find("layers.0.blocks.0.attn.qkv.bias") != nullptr};
  m.facts["norm_eps"] = 1e-5;
  m.assumed.push_back("norm_eps");
  if (square) m.facts["window_sizes"] = fmt::format("{}", fmt::join(windows, ","));
  else m.unknown.push_back("window_sizes");
  m.unknown.insert(m.unknown.end(), {"image_size", "mean", "std"});
  return m;
}

Dialect timm_dialect() {
  return {"timm",
          {{"{*}", "{*}"}},
          {"layers.{s}.blocks.{b}.attn.relative_position_index", "layers.{s}.blocks.{b}.attn_mask"},
          recognise_timm};
}

}  // namespace fovea
