// OpenMMLab's mmpretrain (mmpretrain/models/backbones/vision_transformer.py, deit.py, deit3.py; heads/vision_transformer_head.py) and,
// by the same names, its forerunner mmcls.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kMmpretrainBackbone[] = {
    {"cls_token", "cls_token"},
    {"dist_token", "dist_token"},
    {"pos_embed", "pos_embed"},
    {"patch_embed.projection.{*}", "patch_embed.proj.{*}"},
    {"pre_norm.{*}", "norm_pre.{*}"},
    {"layers.{i}.ln1.{*}", "blocks.{i}.norm1.{*}"},
    {"layers.{i}.attn.qkv.{*}", "blocks.{i}.attn.qkv.{*}"},
    {"layers.{i}.attn.proj.{*}", "blocks.{i}.attn.proj.{*}"},
    {"layers.{i}.attn.gamma1.weight", "blocks.{i}.ls1.gamma"},
    {"layers.{i}.ln2.{*}", "blocks.{i}.norm2.{*}"},
    {"layers.{i}.ffn.layers.0.0.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"layers.{i}.ffn.layers.1.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"layers.{i}.ffn.gamma2.weight", "blocks.{i}.ls2.gamma"},
    {"ln1.{*}", "norm.{*}"},
    {"ln2.{*}", "fc_norm.{*}"},
};
constexpr KeyRule kMmpretrainHeads[] = {
    {"head.layers.pre_logits.{*}", "pre_logits.fc.{*}"},
    {"head.layers.head.{*}", "head.{*}"},
    {"head.layers.head_dist.{*}", "head_dist.{*}"},
};

const std::vector<KeyRule>& mmpretrain_rules() {
  static const std::vector<KeyRule> rules = [] {
    constexpr std::string_view kPrefixes[] = {"backbone.", ""};
    std::vector<KeyRule> r = under_prefixes(kPrefixes, kMmpretrainBackbone);
    r.insert(r.end(), std::begin(kMmpretrainHeads), std::end(kMmpretrainHeads));
    return r;
  }();
  return rules;
}

std::optional<RecognisedModel> recognise_mmpretrain_vit(const WeightFile& file) {
  if (file.find("backbone.layers.0.ffn.layers.0.0.weight") == nullptr && file.find("layers.0.ffn.layers.0.0.weight") == nullptr) return std::nullopt;
  if (file.find("backbone.layers.0.attn.qkv.weight") == nullptr && file.find("layers.0.attn.qkv.weight") == nullptr) return std::nullopt;
  return recognise_vit(file, mmpretrain_rules(), {}, {.position_resampling = "bicubic"});
}

}  // namespace

Dialect mmpretrain_vit_dialect() {
  return {"mmpretrain-vit",
          mmpretrain_rules(),
          {},
          recognise_mmpretrain_vit,
          {{"vit", {"backbone.patch_embed.projection.weight", "backbone.layers.{i}.ln1.weight", "backbone.layers.{i}.attn.qkv.weight",
                    "backbone.layers.{i}.ffn.layers.0.0.weight", "backbone.ln1.weight"}},
           {"deit_distilled", {"backbone.dist_token", "backbone.layers.{i}.ln1.weight", "backbone.layers.{i}.attn.qkv.weight", "head.layers.head_dist.weight"}}}};
}

}  // namespace fovea
