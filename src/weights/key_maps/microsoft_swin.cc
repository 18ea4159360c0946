// The official layout of Swin and Swin V2: a stage ends with its merge (timm: begins with it), and the head is one Linear.
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

std::optional<RecognisedModel> recognise_microsoft(const WeightFile& file) {
  // One stage alone has no merge; then only the head's name differs.
  if (file.find("layers.0.downsample.reduction.weight") == nullptr && file.find("head.weight") == nullptr) return std::nullopt;
  return recognise_swin(file, "head.weight");
}

}  // namespace

Dialect microsoft_swin_dialect() {
  return {"microsoft-swin",
          {{"layers.{s}.downsample.{*}", "layers.{s+1}.downsample.{*}"}, {"head.{*}", "head.fc.{*}"}, {"{*}", "{*}"}},
          swin_buffers(),
          recognise_microsoft,
          {{"swin", {"patch_embed.proj.weight", "layers.{s}.blocks.{b}.attn.qkv.weight", "layers.0.downsample.reduction.weight", "head.weight"}}}};
}

}  // namespace fovea
