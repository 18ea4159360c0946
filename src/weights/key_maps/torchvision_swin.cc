// torchvision.models.swin_transformer, version 1 and 2. features.0 are the patches, odd numbers the stages' blocks, even ones the merges
// between them. Version 2 keeps one bias of q, k and v, whose middle third its forward pass takes for zero.
#include <deque>

#include "weights/key_maps/swin_dialects.h"

namespace fovea {

namespace {

constexpr int kStages = 8;  // as many as any of our models has

std::string_view lasting(std::string text) {
  static std::deque<std::string> texts;
  return texts.emplace_back(std::move(text));
}

std::vector<KeyRule> make_torchvision_rules() {
  std::vector<KeyRule> rules = {{"features.0.0.{*}", "patch_embed.proj.{*}"}, {"features.0.2.{*}", "patch_embed.norm.{*}"}};
  for (int s = 0; s < kStages; ++s) {
    const auto block = [&](std::string_view theirs, std::string_view ours, int slice = 0, int slices = 1) {
      KeyRule r{lasting(fmt::format("features.{}.{{b}}.{}", 2 * s + 1, theirs)), lasting(fmt::format("layers.{}.blocks.{{b}}.{}", s, ours))};
      r.slice = slice;
      r.slices = slices;
      rules.push_back(r);
    };
    block("mlp.0.{*}", "mlp.fc1.{*}");
    block("mlp.3.{*}", "mlp.fc2.{*}");
    block("{*}", "{*}");
    rules.push_back({lasting(fmt::format("features.{}.{{*}}", 2 * s + 2)), lasting(fmt::format("layers.{}.downsample.{{*}}", s + 1))});
  }
  rules.push_back({"norm.{*}", "norm.{*}"});
  rules.push_back({"head.{*}", "head.fc.{*}"});
  return rules;
}

const std::vector<KeyRule>& torchvision_rules() {
  static const std::vector<KeyRule> rules = make_torchvision_rules();
  return rules;
}

// q_bias and v_bias, around a third that means nothing.
const std::vector<KeyRule>& torchvision_v2_rules() {
  static const std::vector<KeyRule> rules = [] {
    std::vector<KeyRule> all;
    for (int s = 0; s < kStages; ++s)
      for (const auto& [slice, ours] : {std::pair{0, "q_bias"}, std::pair{2, "v_bias"}}) {
        KeyRule r{lasting(fmt::format("features.{}.{{b}}.attn.qkv.bias", 2 * s + 1)), lasting(fmt::format("layers.{}.blocks.{{b}}.attn.{}", s, ours))};
        r.slice = slice;
        r.slices = 3;
        all.push_back(r);
      }
    const std::vector<KeyRule>& shared = torchvision_rules();
    all.insert(all.end(), shared.begin(), shared.end());
    return all;
  }();
  return rules;
}

std::optional<RecognisedModel> recognise_torchvision(const WeightFile& file, bool second) {
  if (file.find("features.1.0.attn.qkv.weight") == nullptr || (file.find("features.1.0.attn.logit_scale") != nullptr) != second) return std::nullopt;
  SwinManners manners;
  manners.window_rule = manners.dense_rule = "torchvision";
  manners.resampling = "bicubic";  // torchvision's own code never does it
  manners.drops_rest = true;
  return recognise_swin(file, second ? torchvision_v2_rules() : torchvision_rules(), manners);
}

std::string torchvision_attention(int64_t stage, int64_t block) { return fmt::format("features.{}.{}.attn.", 2 * stage + 1, block); }

Dialect torchvision(std::string_view name, const std::vector<KeyRule>& rules) {
  Dialect d{name, rules, {"features.{s}.{b}.attn.relative_position_index", "features.{s}.{b}.attn.relative_coords_table"}, nullptr};
  d.constants = [](const RecognisedModel& m) { return window_constants(m, torchvision_attention, true); };
  return d;
}

}  // namespace

Dialect torchvision_swin_dialect() {
  Dialect d = torchvision("torchvision-swin", torchvision_rules());
  d.recognise = [](const WeightFile& file) { return recognise_torchvision(file, false); };
  d.kinds = {{"swin", {"features.0.0.weight", "features.1.{b}.attn.qkv.weight", "features.1.{b}.attn.relative_position_bias_table",
                       "features.2.reduction.weight", "head.weight"}}};
  return d;
}

Dialect torchvision_swinv2_dialect() {
  Dialect d = torchvision("torchvision-swinv2", torchvision_v2_rules());
  d.recognise = [](const WeightFile& file) { return recognise_torchvision(file, true); };
  d.kinds = {{"swin_v2", {"features.0.0.weight", "features.1.{b}.attn.qkv.weight", "features.1.{b}.attn.logit_scale", "features.2.reduction.weight",
                          "head.weight"}}};
  return d;
}

}  // namespace fovea
