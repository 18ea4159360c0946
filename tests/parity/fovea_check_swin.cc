// Fixtures of Swin V1 and V2: window attention, blocks, patch merging.
#include "parity/runners.h"

#include "attention/window_v2.h"
#include "blocks/patch_merging.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

enum class Swin : uint8_t { kV1, kV2 };

std::unique_ptr<Attention> make_window(const Scope& scope, const AttentionConfig& heads, const Json& j, const WindowRule& rule, Swin version,
                                       bool shift = true) {
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window_size"));
  if (shift && j.contains("shift_size")) std::tie(w.shift_h, w.shift_w) = pair_of(j.at("shift_size"));
  w.rule = rule;
  if (version == Swin::kV1) return std::make_unique<WindowAttention>(scope, heads, w);
  WindowV2Config v{w};
  if (j.contains("pretrained_window_size")) std::tie(v.pretrained_h, v.pretrained_w) = pair_of(j.at("pretrained_window_size"));
  return std::make_unique<WindowV2Attention>(scope, heads, v);
}

// One attention over windows that are given one by one: x (B nW, Wh Ww, C), mask (nW, N, N).
void swin_window_attention(CheckCase& c, Swin version) {
  const auto attention = make_window(Scope(c.params), heads_of(c.config), c.config, WindowRule::timm(), version, false);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  const auto [h, w] = pair_of(c.config.at("window_size"));
  in.grid = {in.x.dim(0), 0, h, w};
  const int64_t n = in.grid.tokens();
  if (c.fixture.has("in.mask")) {
    const Tensor one = c.input("mask");
    const int64_t windows = one.dim(0), batch = in.grid.batch / windows;
    const Tensor all = c.memory(Shape{batch * windows, 1, n, n});
    for (int64_t b = 0; b < batch; ++b) convert(one, all.slice(b * windows, windows));
    in.mask = all;
  }
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, *attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// torchvision's attention on a map of any size: x (B, H, W, C).
void swin_shifted_window(CheckCase& c, Swin version) {
  const AttentionConfig heads = heads_of(c.config);
  const auto attention = make_window(Scope(c.params), heads, c.config, WindowRule::torchvision(), version);
  if (version == Swin::kV2 && heads.qkv_bias) {  // one bias, whose middle third is without effect and gets no gradient
    c.bind_part("qkv.bias", 0, "q_bias");
    c.bind_part("qkv.bias", 2 * heads.dim, "v_bias");
  }
  c.load();
  AttentionInputs in;
  const Tensor x = c.input("x");
  in.grid = {x.dim(0), 0, x.dim(1), x.dim(2)};
  in.x = x.reshaped(Shape{x.dim(0), in.grid.tokens(), x.dim(3)});
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, *attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

void swin_block(CheckCase& c, const WindowRule& rule, Swin version) {
  BlockConfig b = block_of(c.config);
  if (version == Swin::kV2) b.norm = NormPlacement::kResPost;
  const Scope scope(c.params);
  const TransformerBlock block(scope, b, make_window(scope / "attn", b.heads, c.config, rule, version));
  c.load();
  const Tensor x = c.input("x");
  AttentionInputs in;
  in.grid = {x.dim(0), 0, c.config.at("H"), c.config.at("W")};
  in.x = x.reshaped(Shape{x.dim(0), in.grid.tokens(), b.heads.dim});
  run_block(c, block, in);
}

void patch_merging(CheckCase& c, MergingNorm placement) {
  const PatchMerging merging(Scope(c.params), c.config.at("dim"), c.config.at("ln_eps"), placement);
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

}  // namespace

void add_swin_runners(Runners& runners) {
  for (const auto& family : {std::pair<std::string, Swin>{"swin_", Swin::kV1}, {"swin_v2_", Swin::kV2}}) {
    const std::string& name = family.first;
    const Swin version = family.second;
    runners[name + "window_attention"] = [version](CheckCase& c) { swin_window_attention(c, version); };
    runners[name + "shifted_window"] = [version](CheckCase& c) { swin_shifted_window(c, version); };
    runners[name + "block"] = [version](CheckCase& c) { swin_block(c, WindowRule::microsoft(), version); };
    runners[name + "block_timm"] = [version](CheckCase& c) { swin_block(c, WindowRule::timm(), version); };
  }
  runners["patch_merging"] = [](CheckCase& c) { patch_merging(c, MergingNorm::kBefore); };
  runners["patch_merging_v2"] = [](CheckCase& c) { patch_merging(c, MergingNorm::kAfter); };
}

}  // namespace fovea::parity
