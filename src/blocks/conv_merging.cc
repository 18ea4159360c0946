#include "blocks/conv_merging.h"

namespace fovea {

namespace {

Shape map_shape(const TokenGrid& g, int64_t channels) { return {g.batch, g.height, g.width, channels}; }

}  // namespace

ConvMerging::ConvMerging(const Scope& scope, int64_t from, int64_t to, double norm_epsilon)
    : from_(from),
      to_(to),
      conv_(scope / "conv", Conv2dShape{from, to, 3, 3, 2, 2, 1, false}, Bias::kYes, MapLayout::kChannelsLast),
      norm_(scope / "norm", to, norm_epsilon) {}

TokenGrid ConvMerging::merged(const TokenGrid& g) { return {g.batch, 0, (g.height + 1) / 2, (g.width + 1) / 2}; }

void ConvMerging::forward(ConstTensor x, const TokenGrid& grid, Tensor y, Tape* tape, Context& ctx) const {
  require(grid.prefix == 0, "merging by convolution has no place for prefix tokens");
  if (tape == nullptr) return conv_.infer(x.reshaped(map_shape(grid, from_)), &norm_, y, ctx);
  const Tensor conv = ctx.activation(Shape{merged(grid).batch, merged(grid).tokens(), to_}, tape);
  conv_.forward(x.reshaped(map_shape(grid, from_)), conv, tape, ctx);
  norm_.forward(conv, y, tape, ctx);
}

void ConvMerging::backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Tensor dconv = ctx.scratch().take(dy.shape, dy.dtype);
  norm_.backward(dy, dconv, Accumulate::kNo, tape, ctx);
  conv_.backward(dconv, dx, tape, ctx);
}

double ConvMerging::flops(const TokenGrid& grid) const {
  const TokenGrid to = merged(grid);
  return 18.0 * static_cast<double>(to.batch * to.tokens()) * static_cast<double>(from_ * to_);
}

}  // namespace fovea
