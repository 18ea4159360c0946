// OpenMMLab's Swin: mmdet, mmseg and mmpretrain (backbones/swin_transformer.py), and mmpretrain's Swin V2. Four neighbours are joined by
// an unfold, so that merges have their channels in another order. In version 1 a stage ends with its merge, in version 2 it begins with it.
#include <deque>

#include "weights/key_maps/swin_dialects.h"

namespace fovea {

namespace {

std::string_view stored(std::string text) {
  static std::deque<std::string> texts;
  return texts.emplace_back(std::move(text));
}

// `prefix`: "backbone." where the head stands beside; there the last stage's norm is the model's.
std::vector<KeyRule> mm_rules(std::string_view prefix, bool second) {
  std::vector<KeyRule> rules;
  const auto add = [&](std::string_view theirs, std::string_view ours, ViewTransform transform = nullptr, ViewTransform inverse = nullptr) {
    KeyRule r{stored(fmt::format("{}{}", prefix, theirs)), ours, transform};
    r.inverse = inverse;
    rules.push_back(r);
  };
  add("patch_embed.projection.{*}", "patch_embed.proj.{*}");
  add("patch_embed.norm.{*}", "patch_embed.norm.{*}");
  add("absolute_pos_embed", "absolute_pos_embed", from_position_map, to_position_map);
  add("stages.{s}.blocks.{b}.attn.w_msa.{*}", "layers.{s}.blocks.{b}.attn.{*}");
  add("stages.{s}.blocks.{b}.ffn.layers.0.0.{*}", "layers.{s}.blocks.{b}.mlp.fc1.{*}");
  add("stages.{s}.blocks.{b}.ffn.layers.1.{*}", "layers.{s}.blocks.{b}.mlp.fc2.{*}");
  add("stages.{s}.blocks.{b}.norm1.{*}", "layers.{s}.blocks.{b}.norm1.{*}");
  add("stages.{s}.blocks.{b}.norm2.{*}", "layers.{s}.blocks.{b}.norm2.{*}");
  add("stages.{s}.downsample.reduction.{*}", second ? "layers.{s}.downsample.reduction.{*}" : "layers.{s+1}.downsample.reduction.{*}", from_unfold_order,
      to_unfold_order);
  if (second) add("stages.{s}.downsample.norm.{*}", "layers.{s}.downsample.norm.{*}");
  else add("stages.{s}.downsample.norm.{*}", "layers.{s+1}.downsample.norm.{*}", from_unfold_order, to_unfold_order);
  if (prefix.empty()) {
    add("norm{i}.{*}", "norm{i}.{*}");
  } else {
    add("norm3.{*}", "norm.{*}");
    add("norm{i}.{*}", "norm.{*}");  // of fewer stages; only read
    rules.push_back({"head.fc.{*}", "head.fc.{*}"});
  }
  return rules;
}

const std::vector<KeyRule>& mmdet_swin_rules() {
  static const std::vector<KeyRule> rules = mm_rules("", false);
  return rules;
}
const std::vector<KeyRule>& mmpretrain_swin_rules() {
  static const std::vector<KeyRule> rules = mm_rules("backbone.", false);
  return rules;
}
const std::vector<KeyRule>& mmpretrain_swinv2_rules() {
  static const std::vector<KeyRule> rules = mm_rules("backbone.", true);
  return rules;
}

std::vector<std::string_view> mm_buffers() {
  return {"backbone.stages.{s}.blocks.{b}.attn.w_msa.relative_position_index", "stages.{s}.blocks.{b}.attn.w_msa.relative_position_index",
          "backbone.stages.{s}.blocks.{b}.attn.w_msa.relative_coords_table",   "stages.{s}.blocks.{b}.attn.w_msa.relative_coords_table",
          "backbone.stages.{s}.blocks.{b}.attn.attn_mask",                     "stages.{s}.blocks.{b}.attn.attn_mask"};
}

SwinManners mm_manners() {
  SwinManners m;
  m.window_rule = "microsoft";  // mmpretrain's for classification
  m.resampling = "bicubic";
  return m;
}

bool has_block(const WeightFile& file, std::string_view prefix, std::string_view name) {
  return file.find(fmt::format("{}stages.0.blocks.0.attn.w_msa.{}", prefix, name)) != nullptr;
}

std::string mmdet_attention(int64_t stage, int64_t block) { return fmt::format("stages.{}.blocks.{}.attn.w_msa.", stage, block); }
std::string mmpretrain_attention(int64_t stage, int64_t block) { return "backbone." + mmdet_attention(stage, block); }

}  // namespace

Dialect mmdet_swin_dialect() {
  Dialect d{"mmdet-swin", mmdet_swin_rules(), mm_buffers(), [](const WeightFile& file) -> std::optional<RecognisedModel> {
              if (!has_block(file, "", "relative_position_bias_table")) return std::nullopt;
              return recognise_swin(file, mmdet_swin_rules(), mm_manners());
            }};
  d.kinds = {{"swin", {"patch_embed.projection.weight", "stages.{s}.blocks.{b}.attn.w_msa.qkv.weight", "stages.{s}.blocks.{b}.ffn.layers.0.0.weight",
                       "stages.{s}.downsample.reduction.weight", "norm3.weight"}}};
  d.constants = [](const RecognisedModel& m) { return window_constants(m, mmdet_attention, false); };
  return d;
}

Dialect mmpretrain_swin_dialect() {
  Dialect d{"mmpretrain-swin", mmpretrain_swin_rules(), mm_buffers(), [](const WeightFile& file) -> std::optional<RecognisedModel> {
              if (!has_block(file, "backbone.", "relative_position_bias_table") || file.find("head.fc.weight") == nullptr) return std::nullopt;
              SwinManners manners = mm_manners();
              manners.position_resampling = "bicubic";
              return recognise_swin(file, mmpretrain_swin_rules(), manners);
            }};
  d.kinds = {{"swin", {"backbone.patch_embed.projection.weight", "backbone.stages.{s}.blocks.{b}.attn.w_msa.relative_position_bias_table",
                       "backbone.stages.{s}.blocks.{b}.ffn.layers.0.0.weight", "backbone.norm3.weight", "head.fc.weight"}}};
  d.constants = [](const RecognisedModel& m) { return window_constants(m, mmpretrain_attention, false); };
  return d;
}

Dialect mmpretrain_swinv2_dialect() {
  Dialect d{"mmpretrain-swinv2", mmpretrain_swinv2_rules(), mm_buffers(), [](const WeightFile& file) -> std::optional<RecognisedModel> {
              if (!has_block(file, "backbone.", "logit_scale")) return std::nullopt;
              SwinManners manners = mm_manners();
              manners.position_resampling = "bicubic";
              return recognise_swin(file, mmpretrain_swinv2_rules(), manners);
            }};
  d.kinds = {{"swin_v2", {"backbone.patch_embed.projection.weight", "backbone.stages.{s}.blocks.{b}.attn.w_msa.logit_scale",
                          "backbone.stages.{s}.blocks.{b}.ffn.layers.0.0.weight", "backbone.norm3.weight", "head.fc.weight"}}};
  d.constants = [](const RecognisedModel& m) { return window_constants(m, mmpretrain_attention, false); };
  return d;
}

}  // namespace fovea
