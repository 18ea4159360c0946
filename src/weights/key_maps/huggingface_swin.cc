// transformers' Swin, Swin V2 (models/swin, models/swinv2) and SwinBackbone. Versions 4 and 5 write the same names. A stage ends with
// its merge, and q, k and v are apart; version 2 has no bias of k. Norms between blocks keep PyTorch's epsilon, whatever config.json's
// layer_norm_eps is.
#include <deque>

#include "weights/key_maps/swin_dialects.h"

namespace fovea {

namespace {

struct BlockName {
  std::string_view theirs, ours;
};
// Inside encoder.layers.S.blocks.B and layers.S.blocks.B.
constexpr BlockName kSharedNames[] = {
    {"attention.output.dense.{*}", "attn.proj.{*}"},  {"layernorm_before.{*}", "norm1.{*}"}, {"layernorm_after.{*}", "norm2.{*}"},
    {"intermediate.dense.{*}", "mlp.fc1.{*}"},        {"output.dense.{*}", "mlp.fc2.{*}"},
};
constexpr BlockName kNamesV1[] = {{"attention.self.relative_position_bias_table", "attn.relative_position_bias_table"},
                                  {"attention.self.relative_position_index", "attn.relative_position_index"}};
constexpr BlockName kNamesV2[] = {{"attention.self.logit_scale", "attn.logit_scale"},
                                  {"attention.self.continuous_position_bias_mlp.{*}", "attn.cpb_mlp.{*}"},
                                  {"attention.self.query.bias", "attn.q_bias"},
                                  {"attention.self.value.bias", "attn.v_bias"},
                                  {"attention.self.relative_coords_table", "attn.relative_coords_table"},
                                  {"attention.self.relative_position_index", "attn.relative_position_index"}};
constexpr double kMergeNormEpsilon = 1e-5;
constexpr std::string_view kParts[] = {"query", "key", "value"};

// Rules hold views: their texts live here.
std::string_view kept(std::string text) {
  static std::deque<std::string> texts;
  return texts.emplace_back(std::move(text));
}

void add_names(std::vector<KeyRule>& rules, std::string_view prefix, bool second) {
  const auto block = [&](std::string_view theirs, std::string_view ours, int part = 0, int parts = 1) {
    KeyRule r{kept(fmt::format("{}encoder.layers.{{s}}.blocks.{{b}}.{}", prefix, theirs)), kept(fmt::format("layers.{{s}}.blocks.{{b}}.{}", ours))};
    r.part = part;
    r.parts = parts;
    rules.push_back(r);
  };
  const auto top = [&](std::string_view theirs, std::string_view ours) { rules.push_back({kept(fmt::format("{}{}", prefix, theirs)), ours}); };
  for (const auto& [theirs, ours] : second ? std::span<const BlockName>(kNamesV2) : std::span<const BlockName>(kNamesV1)) block(theirs, ours);
  for (int i = 0; i < 3; ++i) {
    block(fmt::format("attention.self.{}.weight", kParts[i]), "attn.qkv.weight", i, 3);
    if (!second) block(fmt::format("attention.self.{}.bias", kParts[i]), "attn.qkv.bias", i, 3);
  }
  for (const auto& [theirs, ours] : kSharedNames) block(theirs, ours);
  top("embeddings.patch_embeddings.projection.{*}", "patch_embed.proj.{*}");
  top("embeddings.norm.{*}", "patch_embed.norm.{*}");
  top("embeddings.position_embeddings", "absolute_pos_embed");
  top("encoder.layers.{s}.downsample.{*}", "layers.{s+1}.downsample.{*}");
  top("layernorm.{*}", "norm.{*}");
}

// With the prefix of a model with a head, and bare.
const std::vector<KeyRule>& huggingface_swin_rules(bool second) {
  static const auto make = [](bool v2) {
    std::vector<KeyRule> rules;
    for (const std::string_view prefix : {v2 ? "swinv2." : "swin.", ""}) add_names(rules, prefix, v2);
    rules.push_back({"classifier.{*}", "head.fc.{*}"});
    rules.push_back({"hidden_states_norms.stage{i}.{*}", "norm{i-1}.{*}"});
    return rules;
  };
  static const std::vector<KeyRule> first_version = make(false), second_version = make(true);
  return second ? second_version : first_version;
}

bool is_huggingface(const WeightFile& file, std::string_view prefix, std::string_view sign) {
  for (const std::string_view p : {prefix, std::string_view()})
    if (file.find(fmt::format("{}encoder.layers.0.blocks.0.attention.self.{}", p, sign)) != nullptr) return true;
  return false;
}

bool has_stage_norms(const WeightFile& file) {
  for (int i = 1; i <= 4; ++i)
    if (file.find(fmt::format("hidden_states_norms.stage{}.weight", i)) != nullptr) return true;
  return false;
}

SwinManners huggingface_manners(bool second) {
  SwinManners m;
  m.window_rule = second ? "mmdet" : "microsoft";  // version 2: what is left when windows and shifts are fixed
  m.resampling = m.position_resampling = "bicubic";
  m.fixed_windows = second;
  m.merge_norm_epsilon = kMergeNormEpsilon;
  return m;
}

std::vector<std::string_view> huggingface_buffers() {
  std::vector<std::string_view> patterns;
  for (const std::string_view prefix : {"swin.", "swinv2.", ""})
    for (const std::string_view buffer : {"relative_position_index", "relative_coords_table"})
      patterns.push_back(kept(fmt::format("{}encoder.layers.{{s}}.blocks.{{b}}.attention.self.{}", prefix, buffer)));
  return patterns;
}

Dialect huggingface(std::string_view name, bool second) {
  Dialect d{name, huggingface_swin_rules(second), huggingface_buffers(), nullptr};
  d.refuses = [](const RecognisedModel& m) -> std::string {
    const auto at = m.facts.find("merge_norm_eps");
    const bool usual = at == m.facts.end() || at->second == RecognisedModel::Value(kMergeNormEpsilon);
    return usual ? "" : fmt::format("its norms between blocks have the epsilon {}, and those of transformers' Swin always {}", std::get<double>(at->second), kMergeNormEpsilon);
  };
  d.beside = {"swin.embeddings.mask_token", "swinv2.embeddings.mask_token", "embeddings.mask_token", "decoder.{*}"};
  return d;
}

}  // namespace

Dialect huggingface_swin_dialect() {
  Dialect d = huggingface("huggingface-swin", false);
  d.recognise = [](const WeightFile& file) -> std::optional<RecognisedModel> {
    if (!is_huggingface(file, "swin.", "relative_position_bias_table") || has_stage_norms(file)) return std::nullopt;
    return recognise_swin(file, huggingface_swin_rules(false), huggingface_manners(false));
  };
  d.kinds = {{"swin",
              {"swin.embeddings.patch_embeddings.projection.weight", "swin.encoder.layers.{s}.blocks.{b}.attention.self.query.weight",
               "swin.encoder.layers.{s}.blocks.{b}.attention.self.relative_position_bias_table", "swin.layernorm.weight", "classifier.weight"}}};
  return d;
}

Dialect huggingface_swin_backbone_dialect() {
  Dialect d = huggingface("huggingface-swin-backbone", false);
  d.recognise = [](const WeightFile& file) -> std::optional<RecognisedModel> {
    if (!is_huggingface(file, "swin.", "relative_position_bias_table") || !has_stage_norms(file)) return std::nullopt;
    return recognise_swin(file, huggingface_swin_rules(false), huggingface_manners(false));
  };
  d.ignored.insert(d.ignored.end(), {"swin.layernorm.{*}", "layernorm.{*}"});  // which a backbone has and does not use
  return d;
}

Dialect huggingface_swinv2_dialect() {
  Dialect d = huggingface("huggingface-swinv2", true);
  d.recognise = [](const WeightFile& file) -> std::optional<RecognisedModel> {
    if (!is_huggingface(file, "swinv2.", "logit_scale")) return std::nullopt;
    return recognise_swin(file, huggingface_swin_rules(true), huggingface_manners(true));
  };
  d.kinds = {{"swin_v2",
              {"swinv2.embeddings.patch_embeddings.projection.weight", "swinv2.encoder.layers.{s}.blocks.{b}.attention.self.query.weight",
               "swinv2.encoder.layers.{s}.blocks.{b}.attention.self.logit_scale", "swinv2.layernorm.weight", "classifier.weight"}}};
  return d;
}

}  // namespace fovea
