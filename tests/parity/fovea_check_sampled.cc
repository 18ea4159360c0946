// Fixtures of keys sampled inside global attention (PVT, Twins).
#include "parity/runners.h"

#include "attention/sampled.h"
#include "attention/window.h"

namespace fovea::parity {

namespace {

void pvt_spatial_reduction(CheckCase& c) {
  const Json& j = c.config;
  const AttentionConfig a = heads_of(j);
  AttentionConfig with_bias = a;
  with_bias.qkv_bias = c.fixture.has("w.q.bias");
  SampledConfig s;
  s.kind = flag(j, "linear_attn", false) ? SampledConfig::Kind::kLinear : SampledConfig::Kind::kPooled;
  std::tie(s.ratio_h, s.ratio_w) = pair_of(j.at("sr_ratio"));
  s.norm_epsilon = j.value("ln_eps", 1e-5);
  const SampledAttention attention(Scope(c.params), with_bias, s);
  bind_both(c, "kv", 0, "k", 0, a.dim);
  bind_both(c, "kv", a.dim, "v", 0, a.dim);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = {in.x.dim(0), 0, j.at("H"), j.at("W")};
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// Windows with zeros as keys where they leave the map, without a position bias.
void twins_lsa(CheckCase& c) {
  const Json& j = c.config;
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window"));
  w.rule = WindowRule::mmdet();
  w.position_bias = false;
  AttentionConfig a = heads_of(j);
  a.qkv_bias = c.fixture.has("w.qkv.bias");
  const WindowAttention attention(Scope(c.params), a, w);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = {in.x.dim(0), 0, j.at("H"), j.at("W")};
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

}  // namespace

void add_sampled_runners(Runners& runners) {
  runners["pvt_spatial_reduction"] = pvt_spatial_reduction;
  runners["twins_lsa"] = twins_lsa;
}

}  // namespace fovea::parity
