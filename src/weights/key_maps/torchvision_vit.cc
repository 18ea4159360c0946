// torchvision's ViT (torchvision/models/vision_transformer.py): packed q, k, v of nn.MultiheadAttention.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kTorchvisionVit[] = {
    {"conv_proj.{*}", "patch_embed.proj.{*}"},
    {"class_token", "cls_token"},
    {"encoder.pos_embedding", "pos_embed"},
    {"encoder.layers.encoder_layer_{i}.ln_1.{*}", "blocks.{i}.norm1.{*}"},
    {"encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight", "blocks.{i}.attn.qkv.weight"},
    {"encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias", "blocks.{i}.attn.qkv.bias"},
    {"encoder.layers.encoder_layer_{i}.self_attention.out_proj.{*}", "blocks.{i}.attn.proj.{*}"},
    {"encoder.layers.encoder_layer_{i}.ln_2.{*}", "blocks.{i}.norm2.{*}"},
    {"encoder.layers.encoder_layer_{i}.mlp.0.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"encoder.layers.encoder_layer_{i}.mlp.3.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"encoder.ln.{*}", "norm.{*}"},
    {"heads.pre_logits.{*}", "pre_logits.fc.{*}"},
    {"heads.head.{*}", "head.{*}"},
    // until version 0.13
    {"encoder.layers.encoder_layer_{i}.mlp.linear_1.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"encoder.layers.encoder_layer_{i}.mlp.linear_2.{*}", "blocks.{i}.mlp.fc2.{*}"},
};

std::optional<RecognisedModel> recognise_torchvision_vit(const WeightFile& file) {
  if (file.find("encoder.layers.encoder_layer_0.self_attention.in_proj_weight") == nullptr) return std::nullopt;
  return recognise_vit(file, kTorchvisionVit, {}, {.position_resampling = "bicubic_corners"});
}

}  // namespace

Dialect torchvision_vit_dialect() {
  return {"torchvision-vit",
          {std::begin(kTorchvisionVit), std::end(kTorchvisionVit)},
          {},
          recognise_torchvision_vit,
          {{"vit", {"conv_proj.weight", "class_token", "encoder.pos_embedding", "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight",
                    "encoder.ln.weight"}}},
          {},
          nullptr,
          needs_class_position};
}

}  // namespace fovea
