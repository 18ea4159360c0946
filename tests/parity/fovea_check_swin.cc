// Fixtures of Swin V1: window attention, blocks, patch merging.
#include "parity/runners.h"

#include "attention/window.h"
#include "blocks/patch_merging.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

WindowConfig window_of(const Json& j, const WindowRule& rule) {
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window_size"));
  if (j.contains("shift_size")) std::tie(w.shift_h, w.shift_w) = pair_of(j.at("shift_size"));
  w.rule = rule;
  return w;
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

}  // namespace

void add_swin_runners(Runners& runners) {
  runners["swin_window_attention"] = swin_window_attention;
  runners["swin_shifted_window"] = swin_shifted_window;
  runners["swin_block"] = [](CheckCase& c) { swin_block(c, WindowRule::microsoft()); };
  runners["swin_block_timm"] = [](CheckCase& c) { swin_block(c, WindowRule::timm()); };
  runners["patch_merging"] = patch_merging;
}

}  // namespace fovea::parity
