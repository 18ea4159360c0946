// google-research/vision_transformer's .npz files (AugReg and the first ViTs), and big_vision's by its own numbers of layers. Kernels
// have their inputs first; those of q, k, v and of the projection have heads in a dimension of their own.
#include <deque>

#include "core/check.h"
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/views.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

// (in, heads, width) -> (heads width, in)
WeightTensor joined_heads(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 3);
  const int64_t all = t.shape[1] * t.shape[2];
  return view_of(t, {all, t.shape[0]}, {1, all});
}
WeightTensor split_heads(const WeightTensor& t, const RecognisedModel& m) {
  const int64_t heads = m.integer("num_heads"), width = t.shape[0] / heads;
  return view_of(t, {t.shape[1], heads, width}, {1, width * t.shape[1], t.shape[1]});
}
// (heads, width) <-> (heads width)
WeightTensor joined_bias(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 2);
  return view_of(t, {t.shape.elements()}, {});
}
WeightTensor split_bias(const WeightTensor& t, const RecognisedModel& m) {
  const int64_t heads = m.integer("num_heads");
  return view_of(t, {heads, t.shape[0] / heads}, {});
}
// (heads, width, out) <-> (out, heads width)
WeightTensor joined_inputs(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 3);
  return view_of(t, {t.shape[2], t.shape[0] * t.shape[1]}, {1, t.shape[2]});
}
WeightTensor split_inputs(const WeightTensor& t, const RecognisedModel& m) {
  const int64_t heads = m.integer("num_heads"), width = t.shape[1] / heads;
  return view_of(t, {heads, width, t.shape[0]}, {width, 1, t.shape[1]});
}
// (height, width, in, out) <-> (out, in, height, width)
WeightTensor channels_first_kernel(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 4);
  const int64_t w = t.shape[1], in = t.shape[2], out = t.shape[3];
  return view_of(t, {out, in, t.shape[0], w}, {1, out, w * in * out, in * out});
}
WeightTensor channels_last_kernel(const WeightTensor& t, const RecognisedModel&) {
  const int64_t in = t.shape[1], h = t.shape[2], w = t.shape[3];
  return view_of(t, {h, w, in, t.shape[0]}, {w, 1, h * w, in * h * w});
}

// What differs between the two code bases: the numbers of a block's layers.
struct LayerNumbers {
  std::string_view attention, perceptron, second_norm;
};

std::vector<KeyRule> numbered_rules(const LayerNumbers& n) {
  static std::deque<std::string> kept;
  const auto keep = [](std::string text) -> std::string_view { return kept.emplace_back(std::move(text)); };
  const std::string block = "Transformer/encoderblock_{i}/";
  const std::string attention = fmt::format("{}MultiHeadDotProductAttention_{}/", block, n.attention);
  const std::string perceptron = fmt::format("{}MlpBlock_{}/", block, n.perceptron);
  std::vector<KeyRule> r;
  for (const auto& [theirs, ours] : {std::pair<std::string_view, std::string_view>{"0", "norm1"}, {n.second_norm, "norm2"}}) {
    r.push_back({keep(fmt::format("{}LayerNorm_{}/scale", block, theirs)), keep(fmt::format("blocks.{{i}}.{}.weight", ours))});
    r.push_back({keep(fmt::format("{}LayerNorm_{}/bias", block, theirs)), keep(fmt::format("blocks.{{i}}.{}.bias", ours))});
  }
  int part = 0;
  for (const std::string_view name : {"query", "key", "value"}) {
    r.push_back({keep(fmt::format("{}{}/kernel", attention, name)), "blocks.{i}.attn.qkv.weight", joined_heads, part, 3, split_heads});
    r.push_back({keep(fmt::format("{}{}/bias", attention, name)), "blocks.{i}.attn.qkv.bias", joined_bias, part, 3, split_bias});
    ++part;
  }
  r.push_back({keep(attention + "out/kernel"), "blocks.{i}.attn.proj.weight", joined_inputs, 0, 1, split_inputs});
  r.push_back({keep(attention + "out/bias"), "blocks.{i}.attn.proj.bias"});
  for (const auto& [theirs, ours] : {std::pair<std::string_view, std::string_view>{"Dense_0", "fc1"}, {"Dense_1", "fc2"}}) {
    r.push_back({keep(fmt::format("{}{}/kernel", perceptron, theirs)), keep(fmt::format("blocks.{{i}}.mlp.{}.weight", ours)), transposed, 0, 1, transposed});
    r.push_back({keep(fmt::format("{}{}/bias", perceptron, theirs)), keep(fmt::format("blocks.{{i}}.mlp.{}.bias", ours))});
  }
  return r;
}

constexpr KeyRule kAroundBlocks[] = {
    {"cls", "cls_token"},
    {"Transformer/posembed_input/pos_embedding", "pos_embed"},
    {"embedding/kernel", "patch_embed.proj.weight", channels_first_kernel, 0, 1, channels_last_kernel},
    {"embedding/bias", "patch_embed.proj.bias"},
    {"Transformer/encoder_norm/scale", "norm.weight"},
    {"Transformer/encoder_norm/bias", "norm.bias"},
    {"pre_logits/kernel", "pre_logits.fc.weight", transposed, 0, 1, transposed},
    {"pre_logits/bias", "pre_logits.fc.bias"},
    {"head/kernel", "head.weight", transposed, 0, 1, transposed},
    {"head/bias", "head.bias"},
    // big_vision
    {"pos_embedding", "pos_embed"},
    {"MAPHead_0/probe", "attn_pool.latent"},
    {"MAPHead_0/MultiHeadDotProductAttention_0/query/kernel", "attn_pool.q.weight", joined_heads, 0, 1, split_heads},
    {"MAPHead_0/MultiHeadDotProductAttention_0/query/bias", "attn_pool.q.bias", joined_bias, 0, 1, split_bias},
    {"MAPHead_0/MultiHeadDotProductAttention_0/key/kernel", "attn_pool.kv.weight", joined_heads, 0, 2, split_heads},
    {"MAPHead_0/MultiHeadDotProductAttention_0/key/bias", "attn_pool.kv.bias", joined_bias, 0, 2, split_bias},
    {"MAPHead_0/MultiHeadDotProductAttention_0/value/kernel", "attn_pool.kv.weight", joined_heads, 1, 2, split_heads},
    {"MAPHead_0/MultiHeadDotProductAttention_0/value/bias", "attn_pool.kv.bias", joined_bias, 1, 2, split_bias},
    {"MAPHead_0/MultiHeadDotProductAttention_0/out/kernel", "attn_pool.proj.weight", joined_inputs, 0, 1, split_inputs},
    {"MAPHead_0/MultiHeadDotProductAttention_0/out/bias", "attn_pool.proj.bias"},
    {"MAPHead_0/LayerNorm_0/scale", "attn_pool.norm.weight"},
    {"MAPHead_0/LayerNorm_0/bias", "attn_pool.norm.bias"},
    {"MAPHead_0/MlpBlock_0/Dense_0/kernel", "attn_pool.mlp.fc1.weight", transposed, 0, 1, transposed},
    {"MAPHead_0/MlpBlock_0/Dense_0/bias", "attn_pool.mlp.fc1.bias"},
    {"MAPHead_0/MlpBlock_0/Dense_1/kernel", "attn_pool.mlp.fc2.weight", transposed, 0, 1, transposed},
    {"MAPHead_0/MlpBlock_0/Dense_1/bias", "attn_pool.mlp.fc2.bias"},
};

const std::vector<KeyRule>& jax_rules() {
  static const std::vector<KeyRule> rules = [] {
    std::vector<KeyRule> r(std::begin(kAroundBlocks), std::end(kAroundBlocks));
    for (const LayerNumbers& n : {LayerNumbers{"1", "3", "2"}, LayerNumbers{"0", "0", "1"}}) {
      const std::vector<KeyRule> blocks = numbered_rules(n);
      r.insert(r.end(), blocks.begin(), blocks.end());
    }
    return r;
  }();
  return rules;
}

std::optional<RecognisedModel> recognise_jax_vit(const WeightFile& file) {
  const WeightTensor* query = nullptr;
  for (const std::string_view number : {"1", "0"})
    if (query == nullptr) query = file.find(fmt::format("Transformer/encoderblock_0/MultiHeadDotProductAttention_{}/query/kernel", number));
  if (query == nullptr || query->shape.rank() != 3 || file.find("embedding/kernel") == nullptr) return std::nullopt;
  auto m = recognise_vit(file, jax_rules(), {}, {});
  if (!m) return m;
  m->facts["num_heads"] = query->shape[1];
  std::erase(m->assumed, "num_heads");
  std::erase(m->unknown, "num_heads");
  return m;
}

}  // namespace

Dialect jax_vit_dialect() {
  return {"jax-vit",
          jax_rules(),
          {},
          recognise_jax_vit,
          {{"vit", {"embedding/kernel", "cls", "Transformer/posembed_input/pos_embedding", "Transformer/encoder_norm/scale",
                    "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/kernel"}}}};
}

}  // namespace fovea
