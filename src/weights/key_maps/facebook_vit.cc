// facebookresearch's own repositories: DeiT III (deit/models_v2.py) and DINOv2 (dinov2/models/vision_transformer.py), whose names are
// timm's but for LayerScale, registers and gated perceptrons. DeiT's and distilled DeiT's are timm's altogether.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kFacebookDeit3[] = {
    {"blocks.{i}.gamma_1", "blocks.{i}.ls1.gamma"},
    {"blocks.{i}.gamma_2", "blocks.{i}.ls2.gamma"},
    {"{*}", "{*}"},
};

// Blocks may be kept in chunks for training in parallel: blocks.CHUNK.BLOCK.
constexpr KeyRule kFacebookDinoV2[] = {
    {"register_tokens", "reg_token"},
    {"blocks.{c}.{i}.{*}", "blocks.{i}.{*}"},
    {"{*}", "{*}"},
};
constexpr KeyRule kFacebookDinoV2Gated[] = {
    {"register_tokens", "reg_token"},
    {"blocks.{i}.mlp.w12.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"blocks.{i}.mlp.w3.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"blocks.{c}.{i}.mlp.w12.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"blocks.{c}.{i}.mlp.w3.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"blocks.{c}.{i}.{*}", "blocks.{i}.{*}"},
    {"{*}", "{*}"},
};

constexpr std::string_view kFacebookMask[] = {"mask_token"};

std::optional<RecognisedModel> recognise_deit3(const WeightFile& file) {
  if (file.find("blocks.0.gamma_1") == nullptr || file.find("pos_embed") == nullptr) return std::nullopt;
  return recognise_vit(file, kFacebookDeit3, {}, {});
}

// Models with registers bring their table to other sizes with antialiasing, those without do not. (The published code of the latter takes
// the new size for 0.1 more than it is: position_resampling=bicubic_offset.)
VitHome dinov2_home(const WeightFile& file) {
  const bool registers = file.find("register_tokens") != nullptr;
  return {.position_resampling = registers ? "antialiased" : "bicubic", .table = TableRows::kWithoutRegisters};
}

bool gated_names(const WeightFile& file) {
  return file.find("blocks.0.mlp.w12.weight") != nullptr || file.find("blocks.0.0.mlp.w12.weight") != nullptr;
}

// The mask token, registers or chunks tell them from timm's.
std::optional<RecognisedModel> recognise_facebook_dinov2(const WeightFile& file) {
  const bool chunks = file.find("blocks.0.0.ls1.gamma") != nullptr;
  if (gated_names(file) || (!chunks && file.find("blocks.0.ls1.gamma") == nullptr) ||
      (!chunks && file.find("mask_token") == nullptr && file.find("register_tokens") == nullptr))
    return std::nullopt;
  return recognise_vit(file, kFacebookDinoV2, kFacebookMask, dinov2_home(file));
}

std::optional<RecognisedModel> recognise_facebook_dinov2_gated(const WeightFile& file) {
  if (!gated_names(file)) return std::nullopt;
  return recognise_vit(file, kFacebookDinoV2Gated, kFacebookMask, dinov2_home(file));
}

std::vector<ConstantTensor> facebook_mask_token(const RecognisedModel& m) {
  const int64_t dim = m.integer("dim");
  return {f32_constant("mask_token", Shape{1, dim}, std::vector<float>(static_cast<size_t>(dim)))};
}

}  // namespace

Dialect facebook_deit3_dialect() {
  return {"facebook-deit3",
          {std::begin(kFacebookDeit3), std::end(kFacebookDeit3)},
          {},
          recognise_deit3,
          {{"vit", {"patch_embed.proj.weight", "pos_embed", "blocks.{i}.gamma_1", "blocks.{i}.attn.qkv.weight", "blocks.{i}.mlp.fc1.weight"}}}};
}

Dialect facebook_dinov2_dialect() {
  return {"facebook-dinov2",
          {std::begin(kFacebookDinoV2), std::end(kFacebookDinoV2)},
          {std::begin(kFacebookMask), std::end(kFacebookMask)},
          recognise_facebook_dinov2,
          {{"vit", {"patch_embed.proj.weight", "pos_embed", "mask_token", "blocks.{i}.ls1.gamma", "blocks.{i}.mlp.fc1.weight"}}},
          {},
          facebook_mask_token,
          needs_class_position};
}

Dialect facebook_dinov2_gated_dialect() {
  return {"facebook-dinov2-gated",
          {std::begin(kFacebookDinoV2Gated), std::end(kFacebookDinoV2Gated)},
          {std::begin(kFacebookMask), std::end(kFacebookMask)},
          recognise_facebook_dinov2_gated,
          {{"vit", {"patch_embed.proj.weight", "pos_embed", "mask_token", "blocks.{i}.ls1.gamma", "blocks.{i}.mlp.w12.weight"}}},
          {},
          facebook_mask_token,
          needs_class_position};
}

}  // namespace fovea
