// DINOv2 of Hugging Face's transformers (models/dinov2, models/dinov2_with_registers). The class token has a position, registers have
// none. The head reads class token and mean of the patches side by side. Backbones without a head are bare.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kHuggingfaceDinoV2[] = {
    {"embeddings.cls_token", "cls_token"},
    {"embeddings.register_tokens", "reg_token"},
    {"embeddings.position_embeddings", "pos_embed"},
    {"embeddings.patch_embeddings.projection.{*}", "patch_embed.proj.{*}"},
    {"encoder.layer.{i}.norm1.{*}", "blocks.{i}.norm1.{*}"},
    {"encoder.layer.{i}.attention.attention.query.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 0, 3},
    {"encoder.layer.{i}.attention.attention.key.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 1, 3},
    {"encoder.layer.{i}.attention.attention.value.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 2, 3},
    {"encoder.layer.{i}.attention.output.dense.{*}", "blocks.{i}.attn.proj.{*}"},
    {"encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"},
    {"encoder.layer.{i}.norm2.{*}", "blocks.{i}.norm2.{*}"},
    {"encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"},
    {"layernorm.{*}", "norm.{*}"},
    // as version 5 has them in memory
    {"encoder.layer.{i}.attention.q_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 0, 3},
    {"encoder.layer.{i}.attention.k_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 1, 3},
    {"encoder.layer.{i}.attention.v_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 2, 3},
    {"encoder.layer.{i}.attention.o_proj.{*}", "blocks.{i}.attn.proj.{*}"},
};
constexpr KeyRule kPlainPerceptron[] = {{"encoder.layer.{i}.mlp.fc1.{*}", "blocks.{i}.mlp.fc1.{*}"}, {"encoder.layer.{i}.mlp.fc2.{*}", "blocks.{i}.mlp.fc2.{*}"}};
constexpr KeyRule kGatedPerceptron[] = {{"encoder.layer.{i}.mlp.weights_in.{*}", "blocks.{i}.mlp.fc1.{*}"},
                                        {"encoder.layer.{i}.mlp.weights_out.{*}", "blocks.{i}.mlp.fc2.{*}"},
                                        {"encoder.layer.{i}.mlp.gate_proj.{*}", "blocks.{i}.mlp.fc1.{*}", nullptr, 0, 2},
                                        {"encoder.layer.{i}.mlp.up_proj.{*}", "blocks.{i}.mlp.fc1.{*}", nullptr, 1, 2},
                                        {"encoder.layer.{i}.mlp.down_proj.{*}", "blocks.{i}.mlp.fc2.{*}"}};

// Of masked training.
constexpr std::string_view kHuggingfaceMask[] = {"embeddings.mask_token", "dinov2.embeddings.mask_token", "dinov2_with_registers.embeddings.mask_token"};

std::vector<KeyRule> dinov2_rules(bool registers, std::span<const KeyRule> perceptron) {
  const std::string_view prefixes[] = {registers ? "dinov2_with_registers." : "dinov2.", ""};
  std::vector<KeyRule> backbone(std::begin(kHuggingfaceDinoV2), std::end(kHuggingfaceDinoV2));
  backbone.insert(backbone.end(), perceptron.begin(), perceptron.end());
  std::vector<KeyRule> rules = under_prefixes(prefixes, backbone);
  rules.push_back({"classifier.{*}", "head.{*}"});
  return rules;
}

template <bool kRegisters, bool kGated>
const std::vector<KeyRule>& rules_of() {
  static const std::vector<KeyRule> rules =
      dinov2_rules(kRegisters, kGated ? std::span<const KeyRule>(kGatedPerceptron) : std::span<const KeyRule>(kPlainPerceptron));
  return rules;
}

template <bool kRegisters, bool kGated>
std::optional<RecognisedModel> recognise_dinov2(const WeightFile& file) {
  for (const std::string_view prefix : {std::string_view(kRegisters ? "dinov2_with_registers." : "dinov2."), std::string_view()}) {
    const auto has = [&](std::string_view name) { return file.find(fmt::format("{}{}", prefix, name)) != nullptr; };
    if (!has("encoder.layer.0.layer_scale1.lambda1") || !has("embeddings.position_embeddings") || has("embeddings.register_tokens") != kRegisters ||
        (has("encoder.layer.0.mlp.weights_in.weight") || has("encoder.layer.0.mlp.gate_proj.weight")) != kGated)
      continue;
    // Tables are brought to other sizes without antialiasing, but with it where there are registers.
    const VitHome home{.position_resampling = kRegisters ? "antialiased" : "bicubic", .patch_rest = "drop",
                       .table = TableRows::kWithoutRegisters};
    return recognise_vit(file, rules_of<kRegisters, kGated>(), kHuggingfaceMask, home);
  }
  return std::nullopt;
}

template <bool kRegisters>
std::vector<ConstantTensor> huggingface_constants(const RecognisedModel& m) {
  const int64_t dim = m.integer("dim");
  std::vector<ConstantTensor> out = {f32_constant(kRegisters ? "dinov2_with_registers.embeddings.mask_token" : "dinov2.embeddings.mask_token", Shape{1, dim},
                                                  std::vector<float>(static_cast<size_t>(dim)))};
  if (kRegisters && m.integer("register_tokens") == 0) out.push_back(f32_constant("dinov2_with_registers.embeddings.register_tokens", Shape{1, 0, dim}, {}));
  return out;
}

template <bool kRegisters, bool kGated>
Dialect dinov2(std::string_view name, std::vector<std::string_view> signs) {
  return {name, rules_of<kRegisters, kGated>(), {std::begin(kHuggingfaceMask), std::end(kHuggingfaceMask)}, recognise_dinov2<kRegisters, kGated>, {{"vit", std::move(signs)}},
          {},   huggingface_constants<kRegisters>, needs_class_position};
}

}  // namespace

Dialect huggingface_dinov2_dialect() {
  return dinov2<false, false>("huggingface-dinov2", {"dinov2.embeddings.cls_token", "dinov2.embeddings.position_embeddings", "dinov2.encoder.layer.{i}.layer_scale1.lambda1",
                                                     "dinov2.encoder.layer.{i}.mlp.fc1.weight", "dinov2.layernorm.weight"});
}
Dialect huggingface_dinov2_gated_dialect() {
  return dinov2<false, true>("huggingface-dinov2-gated", {"dinov2.embeddings.cls_token", "dinov2.embeddings.position_embeddings",
                                                          "dinov2.encoder.layer.{i}.layer_scale1.lambda1", "dinov2.encoder.layer.{i}.mlp.weights_in.weight"});
}
Dialect huggingface_dinov2_registers_dialect() {
  return dinov2<true, false>("huggingface-dinov2-registers", {"dinov2_with_registers.embeddings.register_tokens", "dinov2_with_registers.embeddings.position_embeddings",
                                                              "dinov2_with_registers.encoder.layer.{i}.mlp.fc1.weight"});
}
Dialect huggingface_dinov2_registers_gated_dialect() {
  return dinov2<true, true>("huggingface-dinov2-registers-gated", {"dinov2_with_registers.embeddings.register_tokens", "dinov2_with_registers.embeddings.position_embeddings",
                                                                   "dinov2_with_registers.encoder.layer.{i}.mlp.weights_in.weight"});
}

}  // namespace fovea
