// ViT and DeiT of Hugging Face's transformers (models/vit, models/deit): separate q, k, v; layer norms with an eps of 1e-12 unless
// config.json says otherwise. A model with a head has its backbone under "vit." or "deit."; one without has it bare.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kHuggingfaceBackbone[] = {
    {"embeddings.cls_token", "cls_token"},
    {"embeddings.distillation_token", "dist_token"},
    {"embeddings.position_embeddings", "pos_embed"},
    {"embeddings.patch_embeddings.projection.{*}", "patch_embed.proj.{*}"},
    {"encoder.layer.{i}.layernorm_before.{*}", "blocks.{i}.norm1.{*}"},
    {"encoder.layer.{i}.attention.attention.query.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 0, 3},
    {"encoder.layer.{i}.attention.attention.key.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 1, 3},
    {"encoder.layer.{i}.attention.attention.value.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 2, 3},
    {"encoder.layer.{i}.attention.output.dense.{*}", "blocks.{i}.attn.proj.{*}"},
    {"encoder.layer.{i}.layernorm_after.{*}", "blocks.{i}.norm2.{*}"},
    {"encoder.layer.{i}.intermediate.dense.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"encoder.layer.{i}.output.dense.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"layernorm.{*}", "norm.{*}"},
    // as version 5 has them in memory
    {"layers.{i}.layernorm_before.{*}", "blocks.{i}.norm1.{*}"},
    {"layers.{i}.attention.q_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 0, 3},
    {"layers.{i}.attention.k_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 1, 3},
    {"layers.{i}.attention.v_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 2, 3},
    {"layers.{i}.attention.o_proj.{*}", "blocks.{i}.attn.proj.{*}"},
    {"layers.{i}.layernorm_after.{*}", "blocks.{i}.norm2.{*}"},
    {"layers.{i}.mlp.fc1.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"layers.{i}.mlp.fc2.{*}", "blocks.{i}.mlp.fc2.{*}"},
};

constexpr KeyRule kHuggingfaceHead[] = {{"classifier.{*}", "head.{*}"}};
constexpr KeyRule kHuggingfaceTwoHeads[] = {{"cls_classifier.{*}", "head.{*}"}, {"distillation_classifier.{*}", "head_dist.{*}"}};

// The layer behind the class token that a model without a head may have, and what masked training needs.
constexpr std::string_view kHuggingfaceNoPart[] = {"pooler.dense.{*}", "vit.pooler.dense.{*}", "deit.pooler.dense.{*}", "embeddings.mask_token",
                                        "vit.embeddings.mask_token", "deit.embeddings.mask_token"};

std::vector<KeyRule> huggingface_rules(std::string_view prefix, std::span<const KeyRule> heads) {
  const std::string_view prefixes[] = {prefix, ""};
  std::vector<KeyRule> rules = under_prefixes(prefixes, kHuggingfaceBackbone);
  rules.insert(rules.end(), heads.begin(), heads.end());
  return rules;
}

const std::vector<KeyRule>& vit_rules() {
  static const std::vector<KeyRule> rules = huggingface_rules("vit.", kHuggingfaceHead);
  return rules;
}
const std::vector<KeyRule>& deit_rules() {
  static const std::vector<KeyRule> rules = huggingface_rules("deit.", kHuggingfaceHead);
  return rules;
}
const std::vector<KeyRule>& deit_teacher_rules() {
  static const std::vector<KeyRule> rules = huggingface_rules("deit.", kHuggingfaceTwoHeads);
  return rules;
}

bool has_any(const WeightFile& file, std::initializer_list<std::string_view> names) {
  for (const std::string_view n : names)
    if (file.find(n) != nullptr) return true;
  return false;
}

constexpr VitHome kVitHome{.norm_epsilon = 1e-12, .position_resampling = "bicubic", .patch_rest = "drop"};
constexpr VitHome kDeitHome{.norm_epsilon = 1e-12, .position_resampling = "bicubic", .patch_rest = "drop"};

std::optional<RecognisedModel> recognise_huggingface_vit(const WeightFile& file) {
  if (!has_any(file, {"vit.embeddings.position_embeddings", "embeddings.position_embeddings"}) ||
      !has_any(file, {"vit.encoder.layer.0.layernorm_before.weight", "encoder.layer.0.layernorm_before.weight", "vit.layers.0.layernorm_before.weight",
                      "layers.0.layernorm_before.weight"}) ||
      has_any(file, {"embeddings.distillation_token"}))
    return std::nullopt;
  return recognise_vit(file, vit_rules(), kHuggingfaceNoPart, kVitHome);
}

std::optional<RecognisedModel> recognise_huggingface_deit(const WeightFile& file) {
  if (!has_any(file, {"deit.embeddings.distillation_token", "embeddings.distillation_token"}) || has_any(file, {"distillation_classifier.weight"}))
    return std::nullopt;
  return recognise_vit(file, deit_rules(), kHuggingfaceNoPart, kDeitHome);
}

std::optional<RecognisedModel> recognise_huggingface_deit_teacher(const WeightFile& file) {
  if (!has_any(file, {"deit.embeddings.distillation_token"}) || !has_any(file, {"distillation_classifier.weight"})) return std::nullopt;
  return recognise_vit(file, deit_teacher_rules(), kHuggingfaceNoPart, kDeitHome);
}

std::vector<std::string_view> no_part() { return {std::begin(kHuggingfaceNoPart), std::end(kHuggingfaceNoPart)}; }
std::vector<std::string_view> no_decoder() { return {"decoder.{*}"}; }  // of masked image modelling

}  // namespace

Dialect huggingface_vit_dialect() {
  return {"huggingface-vit",
          vit_rules(),
          no_part(),
          recognise_huggingface_vit,
          {{"vit", {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "vit.encoder.layer.{i}.attention.attention.query.weight",
                    "vit.encoder.layer.{i}.intermediate.dense.weight", "vit.layernorm.weight"}}},
          no_decoder(),
          nullptr,
          needs_class_position};
}

Dialect huggingface_deit_dialect() {
  return {"huggingface-deit",
          deit_rules(),
          no_part(),
          recognise_huggingface_deit,
          {{"deit", {"deit.embeddings.distillation_token", "deit.embeddings.position_embeddings", "deit.encoder.layer.{i}.attention.attention.query.weight",
                     "classifier.weight"}}},
          no_decoder(),
          nullptr,
          needs_class_position};
}

Dialect huggingface_deit_teacher_dialect() {
  return {"huggingface-deit-distilled",
          deit_teacher_rules(),
          no_part(),
          recognise_huggingface_deit_teacher,
          {{"deit_distilled", {"deit.embeddings.distillation_token", "deit.encoder.layer.{i}.attention.attention.query.weight", "cls_classifier.weight",
                               "distillation_classifier.weight"}}},
          {},
          nullptr,
          needs_class_position};
}

}  // namespace fovea
