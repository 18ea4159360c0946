#include "models/swin.h"

#include <array>

namespace fovea {

namespace {

struct SwinRecord {
  TokenGrid embedded;
};

PatchEmbedConfig swin_embed_config(const ModelConfig& c) {
  PatchEmbedConfig p;
  p.in_channels = c.input.channels;
  p.dim = c.dim;
  p.patch = c.patch;
  p.norm = true;
  p.norm_epsilon = c.between_norm_epsilon();
  p.convolutional_stem = c.convolutional_stem;
  p.drop_rest = c.patch_rest == "drop";
  return p;
}

// The table of absolute positions, whose names are Microsoft's.
TokenEmbedConfig absolute_positions(const ModelConfig& c, int64_t height, int64_t width) {
  TokenEmbedConfig t;
  t.dim = c.dim;
  t.class_token = false;
  t.grid_height = c.position_grid.empty() ? height : c.position_grid[0];
  t.grid_width = c.position_grid.empty() ? width : c.position_grid[1];
  if (c.position_resampling != "none") t.resampling = cubic_rule_named(c.position_resampling);
  t.table = "absolute_pos_embed";
  return t;
}

}  // namespace

SwinStage::SwinStage(const Scope& scope, const ModelConfig& c, size_t stage, const TokenGrid& in)
    : channels_(c.dim << stage),
      downsample_(stage > 0 ? std::make_optional<PatchMerging>(scope / "downsample", channels_ / 2, c.between_norm_epsilon(),
                                                               c.swin_v2() ? MergingNorm::kAfter : MergingNorm::kBefore)
                            : std::nullopt),
      blocks_(scope / "blocks", c, stage, out_grid(in).tokens()) {}

Tensor SwinStage::merge(Tensor x, const TokenGrid& in, Tape* tape, Context& ctx) const {
  if (!downsample_) return x;
  const TokenGrid to = PatchMerging::merged(in);
  const Tensor y = ctx.activation(Shape{to.batch, to.tokens(), channels_}, tape);
  downsample_->forward(x, in, y, tape, ctx);
  return y;
}

Tensor SwinStage::merge_backward(Tensor gradient, const TokenGrid& in, Tape& tape, Context& ctx) const {
  if (!downsample_) return gradient;
  const Tensor dx = ctx.scratch().take(Shape{in.batch, in.tokens(), channels_ / 2}, ctx.dtype());
  downsample_->backward(gradient, dx, tape, ctx);
  return dx;
}

double SwinStage::flops(const TokenGrid& in) const {
  return (downsample_ ? downsample_->flops(in) : 0) + blocks_.flops(out_grid(in));
}

SwinTransformer::SwinTransformer(const Scope& scope, const ModelConfig& c)
    : config_(c), patch_embed_(scope / "patch_embed", swin_embed_config(c)) {
  require_stages(c);
  TokenGrid grid{1, 0, patch_embed_.out_height(c.input.height), patch_embed_.out_width(c.input.width)};
  if (c.absolute_positions) positions_.emplace(scope, absolute_positions(c, grid.height, grid.width));
  for (size_t i = 0; i < c.depths.size(); ++i) {
    stages_.emplace_back(scope / "layers" / static_cast<int64_t>(i), c, i, grid);
    grid = stages_.back().out_grid(grid);
    auto& norm = map_norms_.emplace_back();
    if (c.pyramid_norms && static_cast<int64_t>(i) >= c.first_pyramid_norm)
      norm.emplace(scope / fmt::format("norm{}", i), stages_.back().channels(), c.between_norm_epsilon());
  }
  if (!c.pyramid_norms) norm_.emplace(scope / "norm", channels(), c.norm_epsilon);
}

BackboneOutput SwinTransformer::forward(ConstTensor images, Tape* tape, Context& ctx) const {
  require(images.shape.rank() == 4, "images: got shape {}, expected [batch, channels, height, width]", images.shape);
  const TokenGrid embedded{images.dim(0), 0, patch_embed_.out_height(images.dim(2)), patch_embed_.out_width(images.dim(3))};
  BackboneOutput out;
  Tensor x = ctx.activation(Shape{embedded.batch, embedded.tokens(), config_.dim}, tape);
  patch_embed_.forward(images, x, tape, ctx);
  if (positions_) {
    const Tensor placed = ctx.activation(x.shape, tape);
    positions_->forward(x, embedded, placed, tape, ctx);
    x = placed;
  }
  TokenGrid grid = embedded;
  int64_t stride = config_.patch;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const SwinStage& stage = stages_[i];
    x = stage.merge(x, grid, tape, ctx);
    if (i > 0) stride *= 2;
    grid = stage.out_grid(grid);
    x = stage.blocks().forward(x, grid, tape, ctx);
    Tensor map = x;
    if (map_norms_[i]) {
      map = ctx.activation(x.shape, tape);
      map_norms_[i]->forward(x, map, tape, ctx);
    }
    out.pyramid.push_back({map, grid, stride});
  }
  out.grid = grid;
  out.features = out.pyramid.back().tokens;
  if (norm_) {
    out.features = ctx.activation(x.shape, tape);
    norm_->forward(x, out.features, tape, ctx);
  }
  if (tape) tape->push(SwinRecord{embedded});
  return out;
}

void SwinTransformer::backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape,
                               Context& ctx) const {
  require(dpyramid.empty() || dpyramid.size() == stages_.size(), "{} pyramid gradients for {} stages", dpyramid.size(), stages_.size());
  const TokenGrid embedded = tape.pop<SwinRecord>().embedded;
  std::array<TokenGrid, kMaxStages> in_grids;  // of each stage
  TokenGrid grid = embedded;
  for (size_t i = 0; i < stages_.size(); ++i) {
    in_grids[i] = grid;
    grid = stages_[i].out_grid(grid);
  }
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const auto zeros = [&](const Shape& shape) {
    const Tensor t = ctx.scratch().take(shape, ctx.dtype());
    t.zero();
    return t;
  };
  Tensor gradient = zeros(Shape{grid.batch, grid.tokens(), channels()});
  if (norm_) norm_->backward(dfeatures.empty() ? zeros(gradient.shape) : dfeatures, gradient, Accumulate::kYes, tape, ctx);
  for (size_t i = stages_.size(); i-- > 0;) {
    const bool has_map = !dpyramid.empty() && !dpyramid[i].empty();
    if (!map_norms_[i]) {
      if (has_map) k.scale_add(gradient.elements(), 1.0, dpyramid[i].data, gradient.data, ctx);
    } else {
      ArenaScope map_scope(ctx.scratch());
      const Tensor dmap = zeros(gradient.shape);
      if (has_map) k.scale_add(dmap.elements(), 1.0, dpyramid[i].data, dmap.data, ctx);
      if (i + 1 == stages_.size() && !dfeatures.empty()) k.scale_add(dmap.elements(), 1.0, dfeatures.data, dmap.data, ctx);
      map_norms_[i]->backward(dmap, gradient, Accumulate::kYes, tape, ctx);
    }
    stages_[i].blocks().backward(gradient, tape, ctx);
    gradient = stages_[i].merge_backward(gradient, in_grids[i], tape, ctx);
  }
  if (positions_) {
    const Tensor dpatches = ctx.scratch().take(gradient.shape, ctx.dtype());
    positions_->backward(gradient, dpatches, tape, ctx);
    gradient = dpatches;
  }
  patch_embed_.backward(gradient, dimages, tape, ctx);
}

std::vector<std::string> SwinTransformer::unsupported(int64_t height, int64_t width) const {
  if (height < 1 || width < 1) return {fmt::format("images of {}x{} pixels are empty", height, width)};
  std::vector<std::string> reasons;
  TokenGrid grid{1, 0, patch_embed_.out_height(height), patch_embed_.out_width(width)};
  if (positions_ && config_.position_resampling == "none" && (grid.height != positions_->config().grid_height || grid.width != positions_->config().grid_width))
    reasons.push_back(fmt::format("its absolute positions are those of {}x{} patches and not resampled where it comes from; --set position_resampling=bicubic resamples them",
                                  positions_->config().grid_height, positions_->config().grid_width));
  for (size_t i = 0; i < stages_.size(); ++i) {
    grid = stages_[i].out_grid(grid);
    for (const std::string& r : stages_[i].blocks().unsupported(grid)) reasons.push_back(fmt::format("stage {}: {}", i + 1, r));
  }
  return reasons;
}

double SwinTransformer::flops(int64_t batch, int64_t height, int64_t width) const {
  double total = patch_embed_.flops(batch, height, width);
  TokenGrid grid{batch, 0, patch_embed_.out_height(height), patch_embed_.out_width(width)};
  for (const SwinStage& stage : stages_) {
    total += stage.flops(grid);
    grid = stage.out_grid(grid);
  }
  return total;
}

void SwinTransformer::end_step(Context& ctx) {
  for (SwinStage& stage : stages_) stage.blocks().end_step(ctx);
}

}  // namespace fovea
