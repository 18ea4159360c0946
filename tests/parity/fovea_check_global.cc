// Fixtures of global attention and of the blocks around it.
#include "parity/runners.h"

#include "attention/global.h"
#include "blocks/mlp.h"

namespace fovea::parity {

namespace {

Tensor mask_input(CheckCase& c, const std::string& name, int64_t batch, int64_t heads, int64_t queries, int64_t keys) {
  return c.input(name).reshaped(Shape{batch, heads, queries, keys});
}

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

}  // namespace

void add_global_runners(Runners& runners) {
  runners["global_mha"] = global_mha;
  runners["vit_block"] = vit_block;
  runners["transformer_encoder_layer"] = transformer_encoder_layer;
  runners["transformer_decoder_layer"] = transformer_decoder_layer;
}

}  // namespace fovea::parity
