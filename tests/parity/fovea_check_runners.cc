// How each kind of fixture maps onto the product's layers.
#include <cmath>
#include <functional>

#include "attention/global.h"
#include "attention/window.h"
#include "blocks/patch_merging.h"
#include "embed/resample.h"
#include "heads/classifier.h"
#include "models/swin.h"
#include "parity/check_case.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

using Json = nlohmann::json;

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

// A 0/1 mask (N, Nk), 1 = masked out: as the causal rule when it is one, else as additive -infinity.
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

Tensor mask_input(CheckCase& c, const std::string& name, int64_t batch, int64_t heads, int64_t queries, int64_t keys) {
  return c.input(name).reshaped(Shape{batch, heads, queries, keys});
}

// A sequence (B, N) as a grid without a map's shape.
TokenGrid sequence(int64_t batch, int64_t tokens) { return {batch, 0, 1, tokens}; }

void bind_torch_attention(CheckCase& c, const std::string& key, const std::string& to, int64_t dim, bool cross, bool bias) {
  c.bind(key + "out_proj.weight", to + "proj.weight");
  if (bias) c.bind(key + "out_proj.bias", to + "proj.bias");
  if (!cross) {
    c.bind(key + "in_proj_weight", to + "qkv.weight");
    if (bias) c.bind(key + "in_proj_bias", to + "qkv.bias");
    return;
  }
  const char* names[] = {"q", "k", "v"};
  for (int64_t i = 0; i < 3; ++i) {
    const std::string projection = to + names[i];
    if (c.fixture.has("w." + key + "in_proj_weight"))
      c.bind_part(key + "in_proj_weight", i * dim, projection + ".weight");
    else
      c.bind(key + names[i] + "_proj_weight", projection + ".weight");
    if (bias) c.bind_part(key + "in_proj_bias", i * dim, projection + ".bias");
  }
}

void run_attention(CheckCase& c, const Attention& attention, AttentionInputs& in, const AttentionGradients& gradients, const Shape& y_shape) {
  const Tensor y = c.memory(y_shape);
  attention.forward(in, y, &c.tape, c.ctx);
  c.output("y", y);
  attention.backward(c.upstream("y"), gradients, c.tape, c.ctx);
}

void global_mha(CheckCase& c) {
  const Json& j = c.config;
  AttentionConfig a;
  AttentionInputs in;
  if (j.at("op") == "timm.Attention") {
    a.dim = j.at("dim");
    a.heads = j.at("num_heads");
    a.qkv_bias = flag(j, "qkv_bias", true);
    a.qk_norm = flag(j, "qk_norm", false);
    a.norm_epsilon = j.value("ln_eps", 1e-5);
    const GlobalAttention attention(Scope(c.params), a);
    c.load();
    in.x = c.input("x");
    in.grid = sequence(in.x.dim(0), in.x.dim(1));
    const Tensor dx = c.memory(in.x.shape);
    run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
    c.input_gradient("x", dx);
    return;
  }
  const bool self = flag(j, "self_attn", true), bias = flag(j, "bias", true);
  a.dim = j.at("embed_dim");
  a.heads = j.at("num_heads");
  a.qkv_bias = a.out_bias = bias;
  a.cross = !self;
  if (!j.at("kdim").is_null()) a.key_dim = j.at("kdim");
  if (!j.at("vdim").is_null()) a.value_dim = j.at("vdim");
  const GlobalAttention attention(Scope(c.params), a);
  bind_torch_attention(c, "", "", a.dim, !self, bias);
  c.load();
  in.x = c.input(self ? "x" : "q");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  const int64_t batch = in.grid.batch, queries = in.grid.tokens();
  AttentionGradients g{c.memory(in.x.shape), {}, {}};
  int64_t keys = queries;
  if (!self) {
    in.key_input = c.input("k");
    in.value_input = c.input("v");
    keys = in.key_input.dim(1);
    g.dkey_input = c.memory(in.key_input.shape);
    g.dvalue_input = c.memory(in.value_input.shape);
  }
  if (c.fixture.has("in.attn_mask")) apply_mask(c, "attn_mask", queries, keys, in);
  if (c.fixture.has("in.attn_mask_add")) in.mask = mask_input(c, "attn_mask_add", batch, a.heads, queries, keys);
  if (c.fixture.has("in.key_padding_mask")) in.key_padding = c.bytes("key_padding_mask");
  run_attention(c, attention, in, g, in.x.shape);
  c.input_gradient(self ? "x" : "q", g.dx);
  if (self) return;
  c.input_gradient("k", g.dkey_input);
  c.input_gradient("v", g.dvalue_input);
}

WindowConfig window_of(const Json& j, const WindowRule& rule) {
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window_size"));
  if (j.contains("shift_size")) std::tie(w.shift_h, w.shift_w) = pair_of(j.at("shift_size"));
  w.rule = rule;
  return w;
}

AttentionConfig heads_of(const Json& j) {
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = j.at("num_heads");
  a.qkv_bias = flag(j, "qkv_bias", true);
  return a;
}

// One attention over windows that are given one by one: x (B nW, Wh Ww, C), mask (nW, N, N).
void swin_window_attention(CheckCase& c) {
  WindowConfig w = window_of(c.config, WindowRule::timm());
  w.shift_h = w.shift_w = 0;
  const AttentionConfig a = heads_of(c.config);
  const WindowAttention attention(Scope(c.params), a, w);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = {in.x.dim(0), 0, w.window_h, w.window_w};
  const int64_t n = in.grid.tokens();
  if (c.fixture.has("in.mask")) {
    const Tensor one = c.input("mask");
    const int64_t windows = one.dim(0), batch = in.grid.batch / windows;
    const Tensor all = c.memory(Shape{batch * windows, 1, n, n});
    for (int64_t b = 0; b < batch; ++b) convert(one, all.slice(b * windows, windows));
    in.mask = all;
  }
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// torchvision's attention on a map of any size: x (B, H, W, C).
void swin_shifted_window(CheckCase& c) {
  const WindowAttention attention(Scope(c.params), heads_of(c.config), window_of(c.config, WindowRule::torchvision()));
  c.load();
  AttentionInputs in;
  const Tensor x = c.input("x");
  in.grid = {x.dim(0), 0, x.dim(1), x.dim(2)};
  in.x = x.reshaped(Shape{x.dim(0), in.grid.tokens(), x.dim(3)});
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
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

void swin_block(CheckCase& c, const WindowRule& rule) {
  const BlockConfig b = block_of(c.config);
  const Scope scope(c.params);
  const TransformerBlock block(scope, b, std::make_unique<WindowAttention>(scope / "attn", b.heads, window_of(c.config, rule)));
  c.load();
  const Tensor x = c.input("x");
  AttentionInputs in;
  in.grid = {x.dim(0), 0, c.config.at("H"), c.config.at("W")};
  in.x = x.reshaped(Shape{x.dim(0), in.grid.tokens(), b.heads.dim});
  run_block(c, block, in);
}

void vit_block(CheckCase& c) {
  const TransformerBlock block(Scope(c.params), block_of(c.config));
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  run_block(c, block, in);
}

std::string torch_mlp_name(const std::string& key) {
  if (key.rfind("linear1", 0) == 0) return "mlp.fc1" + key.substr(7);
  if (key.rfind("linear2", 0) == 0) return "mlp.fc2" + key.substr(7);
  return key;
}

void transformer_encoder_layer(CheckCase& c) {
  BlockConfig b;
  b.heads = heads_of(c.config);
  b.mlp_hidden = c.config.at("ffn");
  b.activation = activation_of(c.config.at("activation"));
  b.norm = c.config.at("norm_first").get<bool>() ? NormPlacement::kPre : NormPlacement::kPost;
  b.norm_epsilon = c.config.at("ln_eps");
  const TransformerBlock block(Scope(c.params), b);
  bind_torch_attention(c, "self_attn.", "attn.", b.heads.dim, false, true);
  c.load(torch_mlp_name);
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  if (c.fixture.has("in.key_padding_mask")) in.key_padding = c.bytes("key_padding_mask");
  if (c.fixture.has("in.attn_mask")) apply_mask(c, "attn_mask", in.grid.tokens(), in.grid.tokens(), in);
  run_block(c, block, in);
}

// Self attention, attention to a memory, perceptron: a residual branch each, with the norm before or after.
void transformer_decoder_layer(CheckCase& c) {
  const bool pre = c.config.at("norm_first").get<bool>();
  const Scope scope(c.params);
  const AttentionConfig self_config = heads_of(c.config);
  AttentionConfig cross_config = self_config;
  cross_config.cross = true;
  const double epsilon = c.config.at("ln_eps");
  const GlobalAttention self(scope / "self", self_config), cross(scope / "cross", cross_config);
  const Mlp mlp(scope / "mlp", self_config.dim, c.config.at("ffn"), activation_of(c.config.at("activation")));
  const LayerNorm norm1(scope / "norm1", self_config.dim, epsilon), norm2(scope / "norm2", self_config.dim, epsilon),
      norm3(scope / "norm3", self_config.dim, epsilon);
  const LayerNorm* norms[] = {&norm1, &norm2, &norm3};
  bind_torch_attention(c, "self_attn.", "self.", self_config.dim, false, true);
  bind_torch_attention(c, "multihead_attn.", "cross.", self_config.dim, true, true);
  c.load(torch_mlp_name);

  const Tensor x = c.input("x"), memory = c.input("memory");
  AttentionInputs base;
  base.grid = sequence(x.dim(0), x.dim(1));
  Tensor h = x;
  for (int branch = 0; branch < 3; ++branch) {
    const Tensor normed = c.memory(x.shape), sum = c.memory(x.shape);
    if (pre) norms[branch]->forward(h, normed, &c.tape, c.ctx);
    AttentionInputs in = base;
    in.x = pre ? normed : h;
    in.residual = h;
    if (branch == 0 && c.fixture.has("in.attn_mask")) apply_mask(c, "attn_mask", x.dim(1), x.dim(1), in);
    if (branch == 1) {
      in.key_input = memory;
      if (c.fixture.has("in.memory_key_padding_mask")) in.key_padding = c.bytes("memory_key_padding_mask");
    }
    if (branch == 0) self.forward(in, sum, &c.tape, c.ctx);
    if (branch == 1) cross.forward(in, sum, &c.tape, c.ctx);
    if (branch == 2) mlp.forward(in.x, nullptr, h, sum, &c.tape, c.ctx);
    h = sum;
    if (pre) continue;
    h = c.memory(x.shape);
    norms[branch]->forward(sum, h, &c.tape, c.ctx);
  }
  c.output("y", h);

  const Tensor gradient = c.upstream("y"), dmemory = c.memory(memory.shape);
  for (int branch = 2; branch >= 0; --branch) {
    if (!pre) norms[branch]->backward(gradient, gradient, Accumulate::kNo, c.tape, c.ctx);
    const Tensor d = c.memory(x.shape);
    if (branch == 2) mlp.backward(gradient, nullptr, d, c.tape, c.ctx);
    if (branch == 1) cross.backward(gradient, {d, dmemory, {}}, c.tape, c.ctx);
    if (branch == 0) self.backward(gradient, {d, {}, {}}, c.tape, c.ctx);
    if (pre)
      norms[branch]->backward(d, gradient, Accumulate::kYes, c.tape, c.ctx);
    else
      c.ctx.kernels().scale_add(d.elements(), 1, d.data, gradient.data, c.ctx);
  }
  c.input_gradient("x", gradient);
  c.input_gradient("memory", dmemory);
}

void patch_merging(CheckCase& c) {
  const PatchMerging merging(Scope(c.params), c.config.at("dim"), c.config.at("ln_eps"));
  c.load();
  const Tensor x = c.input("x");
  const TokenGrid grid{x.dim(0), 0, c.config.at("H"), c.config.at("W")};
  const Tensor rows = x.reshaped(Shape{grid.batch, grid.tokens(), x.last()});
  const TokenGrid to = PatchMerging::merged(grid);
  const Tensor y = c.memory(Shape{to.batch, to.tokens(), 2 * x.last()}), dx = c.memory(rows.shape);
  merging.forward(rows, grid, y, &c.tape, c.ctx);
  c.output("y", y);
  merging.backward(c.upstream("y"), dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
}

void pos_embed_resample(CheckCase& c) {
  const Json& j = c.config;
  const auto [from_h, from_w] = pair_of(j.at("old_size"));
  const auto [to_h, to_w] = pair_of(j.at("new_size"));
  const int64_t prefix = j.at("num_prefix_tokens"), dim = j.at("dim");
  c.load();
  const Tensor x = c.input("pos").reshaped(Shape{prefix + from_h * from_w, dim});
  const Tensor y = c.memory(Shape{prefix + to_h * to_w, dim}), dx = c.memory(x.shape);
  const GridResampling r{from_h, from_w, to_h, to_w, -0.5, true};
  convert(x.slice(0, prefix), y.slice(0, prefix));
  resample_grid(r, x.slice(prefix, from_h * from_w), y.slice(prefix, to_h * to_w), c.ctx);
  c.output("pos", y);
  const Tensor dy = c.upstream("pos").reshaped(y.shape);
  convert(dy.slice(0, prefix), dx.slice(0, prefix));
  resample_grid_backward(r, dy.slice(prefix, to_h * to_w), dx.slice(prefix, from_h * from_w), c.ctx);
  c.input_gradient("pos", dx);
}

// ---- whole models ---------------------------------------------------------------------------------------------------

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

// A model is built by its configuration alone, so the case binds to the classifier's own store by moving values across.
struct ModelCase {
  CheckCase& c;
  Classifier model;
  ModelCase(CheckCase& check, const ModelConfig& config) : c(check), model(config) {}

  void load(const std::function<std::string(const std::string&)>& rename = {}) {
    for (const Param& p : model.params().params()) c.params.add(p.name, p.shape, p.init, p.decay);
    c.load(rename);
    model.params().allocate(c.ctx.dtype(), ParamStore::Gradients::kYes);
    for (Param& p : model.params().params()) convert(c.params.find(p.name)->value, p.value);
  }
  void collect_gradients() {
    for (const Param& p : model.params().params()) convert(p.grad, c.params.find(p.name)->grad);
  }
};

void backbone_vit(CheckCase& c, bool distilled) {
  const Json& j = c.config;
  ModelConfig m = model_config(j);
  m.family = "vit";
  m.depth = j.at("depth");
  m.heads = j.at("num_heads");
  m.class_token = flag(j, "class_token", true);
  m.distillation_token = distilled;
  m.register_tokens = j.value("reg_tokens", 0);
  m.pool = j.value("global_pool", "token");
  const std::string act = j.value("act", "gelu_erf");
  m.activation = act == "gelu_erf" ? "gelu" : act;
  const int64_t patches = ((m.input.height + m.patch - 1) / m.patch) * ((m.input.width + m.patch - 1) / m.patch);
  m.prefix_positions = c.fixture.tensor("w.pos_embed").dim(1) != patches;
  ModelCase model(c, m);
  model.load();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const auto out = model.model.forward(x, &c.tape, c.ctx);
  const char* names[] = {distilled ? "logits_cls" : "logits", "logits_dist"};
  std::array<Tensor, 2> dlogits;
  for (int h = 0; h < model.model.heads(); ++h) {
    c.output(names[h], out.logits[static_cast<size_t>(h)]);
    dlogits[static_cast<size_t>(h)] = c.upstream(names[h]);
  }
  Tensor dfeatures;
  if (c.fixture.has("out.features")) c.output("features", out.backbone.features);
  if (c.fixture.has("gout.features")) dfeatures = c.upstream("features");
  model.model.backward(dlogits, dfeatures, {}, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
  model.collect_gradients();
}

// The windows of each stage: what the fixture says was used, or what the tables' sizes say (square windows).
std::string window_specs(const CheckCase& c, const std::string& rule) {
  const Json& j = c.config;
  std::string spec;
  int64_t block = 0;
  const std::vector<int64_t> depths = j.at("depths");
  for (size_t s = 0; s < depths.size(); ++s) {
    int64_t h = 0, w = 0;
    if (j.contains("windows_used") && j["windows_used"].is_array()) {
      std::tie(h, w) = pair_of(j["windows_used"].at(static_cast<size_t>(block)).at(0));
    } else {
      const int64_t rows = c.fixture.tensor(fmt::format("w.layers.{}.blocks.0.attn.relative_position_bias_table", s)).dim(0);
      h = w = (std::lround(std::sqrt(static_cast<double>(rows))) + 1) / 2;
    }
    block += depths[s];
    spec += fmt::format("{}window:size={}x{}:rule={}", s == 0 ? "" : "/", h, w, rule);
  }
  return spec;
}

// layers.S.downsample at the end of stage S (Microsoft) is ours at the start of stage S + 1 (timm).
std::string microsoft_name(const std::string& key) {
  if (key.rfind("head.", 0) == 0) return "head.fc." + key.substr(5);
  const size_t at = key.find(".downsample.");
  if (at == std::string::npos) return key;
  return fmt::format("layers.{}{}", std::stoi(key.substr(7, at - 7)) + 1, key.substr(at));
}

void backbone_swin(CheckCase& c, bool microsoft) {
  const Json& j = c.config;
  ModelConfig m = model_config(j);
  m.family = "swin";
  m.depths = j.at("depths").get<std::vector<int64_t>>();
  m.stage_heads = j.at("num_heads").get<std::vector<int64_t>>();
  m.attention = window_specs(c, microsoft ? "microsoft" : "timm");
  ModelCase model(c, m);
  model.load(microsoft ? std::function<std::string(const std::string&)>(microsoft_name) : nullptr);
  const auto& swin = dynamic_cast<const SwinTransformer&>(model.model.backbone());
  const size_t stages = swin.stages().size();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const auto out = model.model.forward(x, &c.tape, c.ctx);
  c.output("logits", out.logits[0]);
  std::vector<Tensor> dpyramid(stages);
  for (size_t s = 0; s < stages; ++s) {
    const std::string name = fmt::format("stage{}", s);
    if (!c.fixture.has("out." + name)) continue;
    const FeatureMap& map = out.backbone.pyramid[s];
    const Tensor upstream = c.fixture.has("gout." + name) ? c.upstream(name) : Tensor();
    if (!microsoft || s + 1 == stages) {
      c.output(name, map.tokens);
      if (!upstream.empty()) dpyramid[s] = upstream.reshaped(map.tokens.shape);
      continue;
    }
    // Microsoft's stage ends after merging. The loss is linear in its outputs, so merging runs once more beside the model
    // and its gradient joins the map's.
    Tape beside;
    const Tensor merged = swin.stages()[s + 1].merge(map.tokens, map.grid, &beside, c.ctx);
    const Tensor kept = c.memory(merged.shape);
    convert(merged, kept);
    c.output(name, kept);
    if (upstream.empty()) continue;
    ArenaScope scope(c.ctx.scratch());
    dpyramid[s] = c.memory(map.tokens.shape);
    convert(swin.stages()[s + 1].merge_backward(upstream.reshaped(merged.shape), map.grid, beside, c.ctx), dpyramid[s]);
  }
  model.model.backward({c.upstream("logits"), Tensor()}, {}, dpyramid, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
  model.collect_gradients();
}

const std::map<std::string, std::function<void(CheckCase&)>>& runners() {
  static const std::map<std::string, std::function<void(CheckCase&)>> table = {
      {"global_mha", global_mha},
      {"vit_block", vit_block},
      {"transformer_encoder_layer", transformer_encoder_layer},
      {"transformer_decoder_layer", transformer_decoder_layer},
      {"swin_window_attention", swin_window_attention},
      {"swin_shifted_window", swin_shifted_window},
      {"swin_block", [](CheckCase& c) { swin_block(c, WindowRule::microsoft()); }},
      {"swin_block_timm", [](CheckCase& c) { swin_block(c, WindowRule::timm()); }},
      {"patch_merging", patch_merging},
      {"pos_embed_resample", pos_embed_resample},
      {"backbone_vit", [](CheckCase& c) { backbone_vit(c, false); }},
      {"backbone_deit_distilled", [](CheckCase& c) { backbone_vit(c, true); }},
      {"backbone_swin", [](CheckCase& c) { backbone_swin(c, true); }},
      {"backbone_swin_timm", [](CheckCase& c) { backbone_swin(c, false); }},
  };
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
  } catch (const std::exception& e) {
    return {"fail", "", e.what(), 0, 0};
  }
}

}  // namespace fovea::parity
