// OpenAI's CLIP and OpenCLIP (open_clip/transformer.py, VisionTransformer): the image tower, which stands under "visual." in a whole model.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/views.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kOpenClip[] = {
    {"class_embedding", "cls_token", as_tokens, 0, 1, as_vector},
    {"positional_embedding", "pos_embed", as_tokens, 0, 1, as_rows},
    {"conv1.{*}", "patch_embed.proj.{*}"},
    {"ln_pre.{*}", "norm_pre.{*}"},
    {"transformer.resblocks.{i}.ln_1.{*}", "blocks.{i}.norm1.{*}"},
    {"transformer.resblocks.{i}.attn.in_proj_weight", "blocks.{i}.attn.qkv.weight"},
    {"transformer.resblocks.{i}.attn.in_proj_bias", "blocks.{i}.attn.qkv.bias"},
    {"transformer.resblocks.{i}.attn.out_proj.{*}", "blocks.{i}.attn.proj.{*}"},
    {"transformer.resblocks.{i}.ls_1.gamma", "blocks.{i}.ls1.gamma"},
    {"transformer.resblocks.{i}.ln_2.{*}", "blocks.{i}.norm2.{*}"},
    {"transformer.resblocks.{i}.mlp.c_fc.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"transformer.resblocks.{i}.mlp.c_proj.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"transformer.resblocks.{i}.ls_2.gamma", "blocks.{i}.ls2.gamma"},
    {"ln_post.{*}", "norm.{*}"},
    {"proj", "head.weight", transposed, 0, 1, transposed},
};

std::optional<RecognisedModel> recognise_openclip(const WeightFile& file) {
  if (file.find("conv1.weight") == nullptr || file.find("class_embedding") == nullptr || file.find("transformer.resblocks.0.attn.in_proj_weight") == nullptr) return std::nullopt;
  return recognise_vit(file, kOpenClip, {}, {});
}

std::string openclip_refuses(const RecognisedModel& m) {
  if (m.integer("pre_norm") == 0) return "it has a norm before its blocks and no bias of its patches";
  if (std::get<std::string>(m.facts.at("pool")) != "token" || std::get<std::string>(m.facts.at("last_norm")) != "tokens") return "it reads the class token behind a last norm";
  return needs_class_position(m);
}

}  // namespace

Dialect openclip_vit_dialect() {
  return {"openclip-vit",
          {std::begin(kOpenClip), std::end(kOpenClip)},
          {},
          recognise_openclip,
          {{"vit_projection", {"class_embedding", "positional_embedding", "conv1.weight", "transformer.resblocks.{i}.attn.in_proj_weight", "proj"}},
           {"vit", {"class_embedding", "positional_embedding", "conv1.weight", "transformer.resblocks.{i}.attn.in_proj_weight", "ln_post.weight"}}},
          {},
          nullptr,
          openclip_refuses};
}

}  // namespace fovea
