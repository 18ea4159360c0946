// timm's names are ours, so nothing is renamed; what remains is to read the model off its shapes.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "weights/key_maps/swin_dialects.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

// Everything keeps its name.
constexpr KeyRule kSame[] = {{"{*}", "{*}"}};

SwinManners timm_manners() {
  SwinManners m;
  m.drops_rest = true;
  return m;
}

std::optional<RecognisedModel> recognise_timm(const WeightFile& file) {
  // A merge at the end of stage 0 or a bare head marks the other layout of Swin (see microsoft_swin.cc).
  if (file.find("layers.0.downsample.reduction.weight") == nullptr && file.find("head.weight") == nullptr)
    if (auto swin = recognise_swin(file, kSame, timm_manners())) return swin;
  if (file.find("patch_embed.proj.weight") == nullptr || (file.find("blocks.0.attn.qkv.weight") == nullptr && file.find("blocks.0.attns.0.attn.qkv.weight") == nullptr))
    return std::nullopt;
  return recognise_vit(file, kSame, {}, {});
}

std::string timm_refuses(const RecognisedModel& m) { return m.integer("absolute_positions") != 0 ? "its Swin has no absolute positions" : ""; }

}  // namespace

std::vector<std::string_view> swin_buffers() {
  return {"layers.{s}.blocks.{b}.attn.relative_position_index", "layers.{s}.blocks.{b}.attn.relative_coords_table", "layers.{s}.blocks.{b}.attn_mask",
          "layers.{s}.blocks.{b}.attn.k_bias"};  // zeros, in a pickled module of version 2
}

Dialect timm_dialect() {
  return {"timm",
          {std::begin(kSame), std::end(kSame)},
          swin_buffers(),
          recognise_timm,
          {{"vit", {"patch_embed.proj.weight", "pos_embed", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight", "blocks.{i}.mlp.fc1.weight"}},
           {"deit_distilled", {"patch_embed.proj.weight", "dist_token", "head_dist.weight", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight"}},
           {"deit", {"patch_embed.proj.weight", "dist_token", "blocks.{i}.norm1.weight", "blocks.{i}.attn.qkv.weight"}},
           {"swin_v2", {"patch_embed.proj.weight", "layers.{s}.blocks.{b}.attn.logit_scale", "layers.1.downsample.reduction.weight", "head.fc.weight"}},
           {"swin", {"patch_embed.proj.weight", "layers.{s}.blocks.{b}.attn.qkv.weight", "layers.1.downsample.reduction.weight", "head.fc.weight"}}},
          {},
          nullptr,
          timm_refuses};
}

}  // namespace fovea
