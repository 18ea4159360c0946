// github.com/microsoft/Swin-Transformer, version 1 and 2, and timm before 0.9: a stage ends with its merge (timm since: begins
// with it), and the head is one Linear. The repository for detection has the same names, a norm for each stage and no head.
#include "weights/key_maps/swin_dialects.h"

namespace fovea {

namespace {

const std::vector<KeyRule>& microsoft_swin_rules() {
  static const std::vector<KeyRule> rules = {
      {"layers.{s}.downsample.{*}", "layers.{s+1}.downsample.{*}"}, {"head.{*}", "head.fc.{*}"},
      {"absolute_pos_embed", "absolute_pos_embed", from_position_map, 0, 1, to_position_map}, {"{*}", "{*}"}};
  return rules;
}

std::string microsoft_attention(int64_t stage, int64_t block) { return fmt::format("layers.{}.blocks.{}.attn.", stage, block); }

std::optional<RecognisedModel> recognise_microsoft(const WeightFile& file) {
  // One stage alone has no merge; then only the head's name differs.
  if (file.find("layers.0.downsample.reduction.weight") == nullptr && file.find("head.weight") == nullptr) return std::nullopt;
  SwinManners manners;
  manners.window_rule = "microsoft";
  manners.resampling = "bicubic";
  return recognise_swin(file, microsoft_swin_rules(), manners);
}

}  // namespace

Dialect microsoft_swin_dialect() {
  Dialect d{"microsoft-swin", microsoft_swin_rules(), swin_buffers(), recognise_microsoft};
  const std::vector<std::string_view> signs = {"patch_embed.proj.weight", "layers.{s}.blocks.{b}.attn.qkv.weight",
                                               "layers.0.downsample.reduction.weight", "head.weight"};
  d.kinds = {{"swin", signs}, {"swin_v2", signs}};
  d.beside = {"mask_token"};  // of pretraining by masked images
  d.constants = [](const RecognisedModel& m) { return window_constants(m, microsoft_attention, false); };
  return d;
}

}  // namespace fovea
