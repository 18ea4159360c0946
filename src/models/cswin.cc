#include "models/cswin.h"

#include <array>

namespace fovea {

namespace {

struct CSwinRecord {
  TokenGrid embedded;
};

// The stem: 7x7 with stride 4 and padding 2.
Conv2dShape stem_shape(const ModelConfig& c) { return {c.input.channels, c.dim, 7, 7, 4, 4, 2, false}; }

std::optional<LayerNorm> norm_if(bool wanted, const Scope& scope, int64_t channels, double epsilon) {
  return wanted ? std::make_optional<LayerNorm>(scope, channels, epsilon) : std::nullopt;
}

}  // namespace

CSwinTransformer::Stage::Stage(const Scope& scope, const ModelConfig& c, size_t stage, const TokenGrid& in)
    : channels(c.dim << stage),
      merge(stage > 0 ? std::make_optional<ConvMerging>(scope / fmt::format("merge{}", stage), channels / 2, channels, c.norm_epsilon)
                      : std::nullopt),
      blocks(scope / fmt::format("stage{}", stage + 1), c, stage, out_grid(in).tokens(), ""),
      norm(norm_if(c.pyramid_norms, scope / fmt::format("norm{}", stage + 1), channels, c.norm_epsilon)) {}

CSwinTransformer::CSwinTransformer(const Scope& scope, const ModelConfig& c)
    : config_(c),
      stem_(scope / "stage1_conv_embed" / "0", stem_shape(c), Bias::kYes, MapLayout::kChannelsFirst),
      stem_norm_(scope / "stage1_conv_embed" / "2", c.dim, c.norm_epsilon) {
  require_stages(c);
  TokenGrid grid = embedded(1, c.input.height, c.input.width);
  for (size_t i = 0; i < c.depths.size(); ++i) {
    stages_.emplace_back(scope, c, i, grid);
    grid = stages_.back().out_grid(grid);
  }
  norm_ = norm_if(!c.pyramid_norms, scope / "norm", channels(), c.norm_epsilon);
}

TokenGrid CSwinTransformer::embedded(int64_t batch, int64_t height, int64_t width) const {
  return {batch, 0, stem_.out_height(height), stem_.out_width(width)};
}

BackboneOutput CSwinTransformer::forward(ConstTensor images, Tape* tape, Context& ctx) const {
  require(images.shape.rank() == 4, "images: got shape {}, expected [batch, channels, height, width]", images.shape);
  const TokenGrid first = embedded(images.dim(0), images.dim(2), images.dim(3));
  BackboneOutput out;
  Tensor x = ctx.activation(Shape{first.batch, first.tokens(), config_.dim}, tape);
  if (tape == nullptr) {
    stem_.infer(images, &stem_norm_, x, ctx);
  } else {
    const Tensor conv = ctx.activation(x.shape, tape);
    stem_.forward(images, conv, tape, ctx);
    stem_norm_.forward(conv, x, tape, ctx);
  }
  TokenGrid grid = first;
  int64_t stride = config_.patch;
  for (const Stage& stage : stages_) {
    if (stage.merge) {
      const TokenGrid to = stage.out_grid(grid);
      const Tensor merged = ctx.activation(Shape{to.batch, to.tokens(), stage.channels}, tape);
      stage.merge->forward(x, grid, merged, tape, ctx);
      x = merged;
      grid = to;
      stride *= 2;
    }
    x = stage.blocks.forward(x, grid, tape, ctx);
    Tensor map = x;
    if (stage.norm) {
      map = ctx.activation(x.shape, tape);
      stage.norm->forward(x, map, tape, ctx);
    }
    out.pyramid.push_back({map, grid, stride});
  }
  out.grid = grid;
  out.features = out.pyramid.back().tokens;
  if (norm_) {
    out.features = ctx.activation(x.shape, tape);
    norm_->forward(x, out.features, tape, ctx);
  }
  if (tape) tape->push(CSwinRecord{first});
  return out;
}

void CSwinTransformer::backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape,
                                Context& ctx) const {
  require(dpyramid.empty() || dpyramid.size() == stages_.size(), "{} pyramid gradients for {} stages", dpyramid.size(), stages_.size());
  const TokenGrid first = tape.pop<CSwinRecord>().embedded;
  const KernelTable& k = ctx.kernels();
  std::array<TokenGrid, kMaxStages> in_grids;  // of each stage
  TokenGrid grid = first;
  for (size_t i = 0; i < stages_.size(); ++i) {
    in_grids[i] = grid;
    grid = stages_[i].out_grid(grid);
  }
  ArenaScope scope(ctx.scratch());
  const auto zeros = [&](const TokenGrid& g, int64_t channels) {
    const Tensor t = ctx.scratch().take(Shape{g.batch, g.tokens(), channels}, ctx.dtype());
    t.zero();
    return t;
  };
  // What reaches the features: through the last norm, or as a share of the last map.
  Tensor gradient = zeros(grid, channels());
  if (norm_) norm_->backward(dfeatures.empty() ? zeros(grid, channels()) : dfeatures, gradient, Accumulate::kYes, tape, ctx);
  for (size_t i = stages_.size(); i-- > 0;) {
    const Stage& stage = stages_[i];
    const TokenGrid out_grid = stage.out_grid(in_grids[i]);
    const bool has_map = !dpyramid.empty() && !dpyramid[i].empty();
    if (!stage.norm) {
      if (has_map) k.scale_add(gradient.elements(), 1.0, dpyramid[i].data, gradient.data, ctx);
    } else {
      ArenaScope map_scope(ctx.scratch());
      const Tensor dmap = zeros(out_grid, stage.channels);
      if (has_map) k.scale_add(dmap.elements(), 1.0, dpyramid[i].data, dmap.data, ctx);
      if (i + 1 == stages_.size() && !dfeatures.empty()) k.scale_add(dmap.elements(), 1.0, dfeatures.data, dmap.data, ctx);
      stage.norm->backward(dmap, gradient, Accumulate::kYes, tape, ctx);
    }
    stage.blocks.backward(gradient, tape, ctx);
    if (!stage.merge) continue;
    const Tensor dx = ctx.scratch().take(Shape{in_grids[i].batch, in_grids[i].tokens(), stages_[i - 1].channels}, ctx.dtype());
    stage.merge->backward(gradient, dx, tape, ctx);
    gradient = dx;
  }
  const Tensor dconv = ctx.scratch().take(gradient.shape, gradient.dtype);
  stem_norm_.backward(gradient, dconv, Accumulate::kNo, tape, ctx);
  stem_.backward(dconv, dimages, tape, ctx);
}

std::vector<std::string> CSwinTransformer::unsupported(int64_t height, int64_t width) const {
  TokenGrid grid = embedded(1, height, width);
  if (height < 1 || width < 1 || grid.tokens() == 0)
    return {fmt::format("images of {}x{} pixels are too small for a 7x7 stem; 3x3 is the least", height, width)};
  std::vector<std::string> reasons;
  for (size_t i = 0; i < stages_.size(); ++i) {
    grid = stages_[i].out_grid(grid);
    for (const std::string& r : stages_[i].blocks.unsupported(grid)) reasons.push_back(fmt::format("stage {}: {}", i + 1, r));
  }
  return reasons;
}

double CSwinTransformer::flops(int64_t batch, int64_t height, int64_t width) const {
  TokenGrid grid = embedded(batch, height, width);
  const Conv2dShape& s = stem_.shape();
  double total = 2.0 * static_cast<double>(batch * grid.tokens()) * static_cast<double>(s.in * s.out * s.kernel_h * s.kernel_w);
  for (const Stage& stage : stages_) {
    if (stage.merge) total += stage.merge->flops(grid);
    grid = stage.out_grid(grid);
    total += stage.blocks.flops(grid);
  }
  return total;
}

void CSwinTransformer::end_step(Context& ctx) {
  for (Stage& stage : stages_) stage.blocks.end_step(ctx);
}

}  // namespace fovea
