// How each kind of fixture maps onto the product's layers: what all families share.
#include "parity/runners.h"

#include <cmath>

#include "core/convert.h"

namespace fovea::parity {

std::pair<int64_t, int64_t> pair_of(const Json& j) {
  if (j.is_array()) return {j.at(0).get<int64_t>(), j.at(1).get<int64_t>()};
  return {j.get<int64_t>(), j.get<int64_t>()};
}

bool flag(const Json& config, const char* key, bool otherwise) {
  return config.contains(key) && !config[key].is_null() ? config[key].get<bool>() : otherwise;
}

Activation activation_of(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  require(name == "gelu" || name == "gelu_erf", "unknown activation {}", name);
  return Activation::kGelu;
}

void apply_mask(CheckCase& c, const std::string& name, int64_t queries, int64_t keys, AttentionInputs& in) {
  const uint8_t* m = c.bytes(name);
  bool causal = queries == keys;
  for (int64_t i = 0; i < queries && causal; ++i)
    for (int64_t j = 0; j < keys; ++j) causal = causal && (m[i * keys + j] != 0) == (j > i);
  in.causal = causal;
  if (causal) return;
  const Tensor mask = c.memory(Shape{1, 1, queries, keys});
  for (int64_t i = 0; i < queries * keys; ++i) store_scalar(mask, i, m[i] != 0 ? -INFINITY : 0.0);
  in.mask = mask;
}

void bind_both(CheckCase& c, const std::string& key, int64_t key_first, const std::string& parameter, int64_t first, int64_t rows) {
  c.bind_rows(key + ".weight", key_first, parameter + ".weight", first, rows);
  if (c.fixture.has("w." + key + ".bias")) c.bind_rows(key + ".bias", key_first, parameter + ".bias", first, rows);
}

TokenGrid sequence(int64_t batch, int64_t tokens) { return {batch, 0, 1, tokens}; }

void run_attention(CheckCase& c, const Attention& attention, AttentionInputs& in, const AttentionGradients& gradients, const Shape& y_shape) {
  const Tensor y = c.memory(y_shape);
  attention.forward(in, y, &c.tape, c.ctx);
  c.output("y", y);
  attention.backward(c.upstream("y"), gradients, c.tape, c.ctx);
}

AttentionConfig heads_of(const Json& j) {
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = j.at("num_heads");
  a.qkv_bias = flag(j, "qkv_bias", true);
  return a;
}

void run_block(CheckCase& c, const TransformerBlock& block, AttentionInputs in) {
  const Tensor y = c.memory(in.x.shape);
  block.forward(in, y, &c.tape, c.ctx);
  c.output("y", y);
  const Tensor gradient = c.upstream("y").reshaped(in.x.shape);
  block.backward(gradient, c.tape, c.ctx);
  c.input_gradient("x", gradient);
}

BlockConfig block_of(const Json& j) {
  BlockConfig b;
  b.heads = heads_of(j);
  b.mlp_hidden = static_cast<int64_t>(std::lround(j.value("mlp_ratio", 4.0) * static_cast<double>(b.heads.dim)));
  b.activation = activation_of(j.value("act", "gelu_erf"));
  b.norm_epsilon = j.at("ln_eps");
  if (j.contains("layer_scale") && !j["layer_scale"].is_null()) b.layer_scale = j["layer_scale"];
  return b;
}

ModelConfig model_config(const Json& j) {
  ModelConfig m;
  m.name = j.value("case", "fixture");
  std::tie(m.input.height, m.input.width) = pair_of(j.at("img_size"));
  m.classes = j.at("num_classes");
  m.patch = j.at("patch_size");
  m.dim = j.at("embed_dim");
  m.mlp_ratio = j.at("mlp_ratio");
  m.norm_epsilon = j.at("ln_eps");
  m.qkv_bias = flag(j, "qkv_bias", true);
  return m;
}

void ModelCase::load(const std::function<std::string(const std::string&)>& rename) {
  for (const Param& p : model.params().params()) c.params.add(p.name, p.shape, p.init, p.decay);
  c.load(rename);
  model.params().allocate(c.ctx.dtype(), ParamStore::Gradients::kYes);
  for (Param& p : model.params().params()) convert(c.params.find(p.name)->value, p.value);
}

void ModelCase::collect_gradients() {
  for (const Param& p : model.params().params())
    if (!p.buffer) convert(p.grad, c.params.find(p.name)->grad);
}

namespace {

const Runners& runners() {
  static const Runners table = [] {
    Runners r;
    add_global_runners(r);
    add_swin_runners(r);
    add_cswin_runners(r);
    add_performer_runners(r);
    add_transformer_xl_runners(r);
    add_backbone_runners(r);
    add_linformer_runners(r);
    add_sampled_runners(r);
    add_patterns_runners(r);
    add_parallel_runners(r);
    add_routing_runners(r);
    add_sst_runners(r);
    return r;
  }();
  return table;
}

}  // namespace

CheckResult run_check(const std::string& path, const KernelTable& table) {
  try {
    const harness::Fixture fixture(path);
    require(fixture.config.is_object() && fixture.config.contains("mechanism"), "the file's metadata name no mechanism");
    const std::string mechanism = fixture.config.at("mechanism");
    const auto it = runners().find(mechanism);
    if (it == runners().end()) return {"unsupported", "", fmt::format("this version has no {}", mechanism), 0, 0};
    CheckCase c(fixture, table);
    it->second(c);
    return c.compare();
  } catch (const ReferenceOnly& e) {
    return {"unsupported", "", e.what(), 0, 0};
  } catch (const std::exception& e) {
    return {"fail", "", e.what(), 0, 0};
  }
}

}  // namespace fovea::parity
