// vit-pytorch's ViT (vit_pytorch/vit.py). Patches are a Linear on 'b c (h p1) (w p2) -> b (h w) (p1 p2 c)', which is a
// convolution with the channels moved to the front. LayerNorm has PyTorch's eps of 1e-5, and heads are 64 wide by default,
// whatever the model's width is. Names changed over the years; a file holds one of each pair below.

#include "core/check.h"
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

struct PatchSize {
  int64_t side, channels;
};

// (p p c) -> p and c. Colour first, then grey, then RGBA: only between the last two can both fit.
std::optional<PatchSize> patch_size_of(int64_t width) {
  for (int64_t channels : {3, 1, 4})
    if (width > 0 && width % channels == 0)
      if (const auto side = exact_root(width / channels)) return PatchSize{*side, channels};
  return std::nullopt;
}

// The last dimension (p1 p2 c) as [c, p1, p2].
WeightTensor channels_first(const WeightTensor& t, const RecognisedModel& m) {
  const int64_t p = m.integer("patch_size"), c = m.integer("in_channels");
  require(t.shape.rank() >= 1 && t.shape.rank() <= 2 && t.shape.last() == p * p * c && t.strides.empty(),
          "{} has shape {}; expected {} values per patch", printable(t.name), t.shape, p * p * c);
  WeightTensor out = t;
  if (t.shape.rank() == 2) {
    out.shape = {t.shape[0], c, p, p};
    out.strides = {p * p * c, 1, p * c, c};
  } else {
    out.shape = {c, p, p};
    out.strides = {1, p * c, c};
  }
  return out;
}

// Back from (outputs, c, p1, p2) or (c, p1, p2).
WeightTensor channels_last(const WeightTensor& t, const RecognisedModel& m) {
  const int64_t p = m.integer("patch_size"), c = m.integer("in_channels");
  const bool weight = t.shape.rank() == 4;
  require((weight || t.shape.rank() == 3) && t.shape.elements() == (weight ? t.shape[0] : 1) * c * p * p && t.strides.empty(),
        "{} has shape {}; expected {} channels of {}x{}", t.name, t.shape, c, p, p);
  WeightTensor out = t;
  if (weight) {
    out.shape = {t.shape[0], p * p * c};
    out.grid = {t.shape[0], p, p, c};
    out.strides = {p * p * c, p, 1, p * p};
  } else {
    out.shape = {p * p * c};
    out.grid = {p, p, c};
    out.strides = {p, 1, p * p};
  }
  return out;
}

// Tables and tokens have no batch dimension in newer files; written they have.
WeightTensor with_batch(const WeightTensor& t, const RecognisedModel&) {
  WeightTensor out = t;
  if (t.shape.rank() == 2 && t.strides.empty()) out.shape = {1, t.shape[0], t.shape[1]};
  return out;
}

// LayerNorm inside attention and MLP.
constexpr KeyRule kCurrent[] = {
    {"transformer.layers.{i}.0.norm.{*}", "blocks.{i}.norm1.{*}"},
    {"transformer.layers.{i}.0.to_qkv.{*}", "blocks.{i}.attn.qkv.{*}"},
    {"transformer.layers.{i}.0.to_out.0.{*}", "blocks.{i}.attn.proj.{*}"},
    {"transformer.layers.{i}.1.net.0.{*}", "blocks.{i}.norm2.{*}"},
    {"transformer.layers.{i}.1.net.1.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"transformer.layers.{i}.1.net.4.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"transformer.norm.{*}", "norm.{*}"},
    {"mlp_head.weight", "head.weight"},
    {"mlp_head.bias", "head.bias"},
};

// Around them, as PreNorm(dim, fn).
constexpr KeyRule kEarlier[] = {
    {"transformer.layers.{i}.0.norm.{*}", "blocks.{i}.norm1.{*}"},
    {"transformer.layers.{i}.0.fn.to_qkv.{*}", "blocks.{i}.attn.qkv.{*}"},
    {"transformer.layers.{i}.0.fn.to_out.0.{*}", "blocks.{i}.attn.proj.{*}"},
    {"transformer.layers.{i}.1.norm.{*}", "blocks.{i}.norm2.{*}"},
    {"transformer.layers.{i}.1.fn.net.0.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"transformer.layers.{i}.1.fn.net.3.{*}", "blocks.{i}.mlp.fc2.{*}"},
    {"mlp_head.0.{*}", "norm.{*}"},
    {"mlp_head.1.{*}", "head.{*}"},
};

// Both are read; the first is written.
std::vector<KeyRule> rules(std::span<const KeyRule> patch_rules, std::span<const KeyRule> written, std::span<const KeyRule> other) {
  std::vector<KeyRule> out = {{"cls_token", "cls_token", with_batch, 0, 1, unchanged}, {"pos_embedding", "pos_embed", with_batch, 0, 1, unchanged}};
  for (const auto& table : {patch_rules, written, other}) out.insert(out.end(), table.begin(), table.end());
  return out;
}

std::optional<RecognisedModel> recognise_with(const WeightFile& file, std::string_view projection) {
  const WeightTensor* patches = file.find(projection);
  if (patches == nullptr || patches->shape.rank() != 2 || file.find("pos_embedding") == nullptr) return std::nullopt;
  constexpr std::string_view kOld = "transformer.layers.{i}.0.fn.to_qkv.weight", kNew = "transformer.layers.{i}.0.to_qkv.weight";
  const bool old = count_keys(file, kOld) > 0;
  const int64_t depth = count_keys(file, old ? kOld : kNew);
  if (depth == 0) return std::nullopt;

  const std::string layer = "transformer.layers.0.";
  const int64_t width = dimension(file, layer + (old ? "0.fn.to_qkv.weight" : "0.to_qkv.weight"), 0) / 3;
  const WeightTensor& table = file.at("pos_embedding");
  const int64_t tokens = table.shape.rank() >= 2 ? table.shape[-2] : 0;
  const int64_t prefix = file.find("cls_token") == nullptr ? 0 : 1;
  RecognisedModel m;
  m.kind = "vit";
  m.facts["dim"] = patches->shape[0];
  m.facts["depth"] = depth;
  m.facts["attention_width"] = width;
  m.facts["mlp_width"] = dimension(file, layer + (old ? "1.fn.net.0.weight" : "1.net.1.weight"), 0);
  m.facts["num_classes"] = dimension(file, "mlp_head.1.weight", 0, dimension(file, "mlp_head.weight", 0));
  m.facts["tokens"] = tokens;
  m.facts["prefix_tokens"] = prefix;
  m.facts["class_token"] = prefix;
  m.facts["register_tokens"] = int64_t{0};
  m.facts["qkv_bias"] = int64_t{file.find(layer + (old ? "0.fn.to_qkv.bias" : "0.to_qkv.bias")) != nullptr};
  m.facts["qk_norm"] = int64_t{0};
  m.facts["layer_scale"] = int64_t{0};
  m.facts["norm_eps"] = 1e-5;
  m.facts["pool"] = std::string("token");
  if (!old) m.facts["last_norm"] = std::string("tokens");  // older heads begin with the norm, behind the pooling
  m.assumed = {"norm_eps", "pool"};

  const auto patch = patch_size_of(patches->shape[1]);
  if (!patch) return std::nullopt;
  m.facts["patch_size"] = patch->side;
  m.facts["in_channels"] = patch->channels;
  if (patch->channels != 3) m.assumed.insert(m.assumed.end(), {"patch_size", "in_channels"});
  if (const auto side = exact_root(tokens - prefix); side && *side > 0) m.facts["image_size"] = *side * patch->side;
  else m.unknown.push_back("image_size");

  constexpr int64_t kHeadDim = 64;  // the constructor's default, dim_head
  if (width % kHeadDim == 0) {
    m.facts["num_heads"] = width / kHeadDim;
    m.assumed.push_back("num_heads");
  } else {
    m.unknown.push_back("num_heads");
  }
  m.unknown.insert(m.unknown.end(), {"mean", "std"});
  return m;
}

}  // namespace

Dialect lucidrains_vit_dialect() {
  const KeyRule patch_rules[] = {{"to_patch_embedding.1.weight", "patch_embed.proj.weight", channels_first, 0, 1, channels_last},
                                 {"to_patch_embedding.1.bias", "patch_embed.proj.bias"}};
  return {"lucidrains-vit", rules(patch_rules, kEarlier, kCurrent), {},
          [](const WeightFile& file) { return recognise_with(file, "to_patch_embedding.1.weight"); },
          {{"vit", {"to_patch_embedding.1.weight", "pos_embedding", "transformer.layers.{i}.0.fn.to_qkv.weight", "mlp_head.1.weight"}}}};
}

Dialect lucidrains_vit_patch_norm_dialect() {
  const KeyRule patch_rules[] = {{"to_patch_embedding.1.weight", "patch_embed.pre_norm.weight", channels_first, 0, 1, channels_last},
                                 {"to_patch_embedding.1.bias", "patch_embed.pre_norm.bias", channels_first, 0, 1, channels_last},
                                 {"to_patch_embedding.2.weight", "patch_embed.proj.weight", channels_first, 0, 1, channels_last},
                                 {"to_patch_embedding.2.bias", "patch_embed.proj.bias"},
                                 {"to_patch_embedding.3.{*}", "patch_embed.norm.{*}"}};
  const auto recognise_it = [](const WeightFile& file) {
    auto m = recognise_with(file, "to_patch_embedding.2.weight");
    if (m) m->facts["patch_norm"] = int64_t{1};
    return m;
  };
  return {"lucidrains-vit-patch-norm", rules(patch_rules, kCurrent, kEarlier), {}, recognise_it,
          {{"vit", {"to_patch_embedding.2.weight", "to_patch_embedding.3.weight", "pos_embedding", "transformer.layers.{i}.0.to_qkv.weight", "mlp_head.weight"}}}};
}

}  // namespace fovea
