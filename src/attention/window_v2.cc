#include "attention/window_v2.h"

namespace fovea {

namespace {

AttentionConfig cosine(AttentionConfig c) {
  c.cosine = true;
  return c;
}

}  // namespace

WindowV2Geometry::WindowV2Geometry(const Scope& scope, const AttentionConfig& config, const WindowV2Config& w)
    : WindowsGeometry(config, w.window), pretrained_h_(w.pretrained_h), pretrained_w_(w.pretrained_w), position_bias_(scope, heads()) {
  require((w.pretrained_h > 0) == (w.pretrained_w > 0), "a pretrained window has both sides, got {}x{}", w.pretrained_h, w.pretrained_w);
}

// A window that shrank to a small map is measured by its own size, as if the model had been built for that map.
OffsetTable WindowV2Geometry::offsets(const TokenGrid& grid) const {
  const WindowGeometry w = window_geometry(grid.height, grid.width, window());
  const bool own = pretrained_h_ == 0;
  return {w.window_h, w.window_w, own ? w.window_h : pretrained_h_, own ? w.window_w : pretrained_w_};
}

double WindowV2Geometry::score_bias_flops(const TokenGrid& grid) const {
  return grid.batch > 0 ? position_bias_.flops(offsets(grid)) : 0;  // once for the whole batch
}

void WindowV2Geometry::score_bias(const AttentionInputs& in, const TokenGroups&, Tensor bias, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const OffsetTable o = offsets(in.grid);
  const Tensor table = ctx.scratch().take(Shape{o.rows(), heads()}, ctx.dtype());
  position_bias_.forward(o, table, ctx);
  const auto& index = table_index(in.grid, o.window_h, o.window_w, ctx);
  ctx.kernels().table_bias(static_cast<int64_t>(index.size()), heads(), table.data, index.data(), bias.data, ctx);
}

void WindowV2Geometry::score_bias_backward(const AttentionInputs& in, const TokenGroups&, ConstTensor dbias, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const OffsetTable o = offsets(in.grid);
  const Tensor dtable = ctx.scratch().take(Shape{o.rows(), heads()}, ctx.dtype());
  dtable.zero();
  const auto& index = table_index(in.grid, o.window_h, o.window_w, ctx);
  ctx.kernels().table_bias_backward(static_cast<int64_t>(index.size()), heads(), dbias.data, index.data(), dtable.data, ctx);
  position_bias_.backward(o, dtable, ctx);
}

WindowV2Attention::WindowV2Attention(const Scope& scope, const AttentionConfig& config, const WindowV2Config& window)
    : MultiHeadAttention(scope, cosine(config), std::make_unique<WindowV2Geometry>(scope, config, window)) {}

AttentionKind window_v2_attention_kind() {
  AttentionKind k;
  k.name = "window_v2";
  k.summary = "shifted windows with cosine scores, a learned temperature and a continuous position bias (Swin V2)";
  k.paper = "Liu et al. 2021, arXiv:2111.09883";
  k.cost = "O(N n C + N C^2), n tokens a window";
  k.options = window_options("8");
  k.options.push_back({"pretrained_window", "0", "window, H or HxW, that the position bias was trained with; 0: the one in use"});
  k.traits.prefix = true;
  k.traits.qk_norm = false;
  k.no_union_reason = "its scores are cosines times a temperature of their own, which other parts do not share";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    WindowV2Config w;
    w.window = window_config(o, config.block);
    if (o.text("pretrained_window") != "0") std::tie(w.pretrained_h, w.pretrained_w) = o.size("pretrained_window");
    require(!config.qk_norm, "window_v2 gives q and k the length one by itself; build it without qk_norm");
    return std::make_unique<WindowV2Attention>(scope, config, w);
  };
  return k;
}

}  // namespace fovea
