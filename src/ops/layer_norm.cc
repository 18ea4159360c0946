#include "ops/layer_norm.h"

namespace fovea {

namespace {

struct LayerNormRecord {
  ConstTensor x, mean, rstd;
};

}  // namespace

LayerNorm::LayerNorm(const Scope& scope, int64_t channels, double epsilon, const Init& gamma)
    : channels_(channels),
      epsilon_(epsilon),
      gamma_(scope.param("weight", Shape{channels}, gamma, Decay::kNo)),
      beta_(scope.param("bias", Shape{channels}, Init::zeros(), Decay::kNo)) {}

void LayerNorm::forward(ConstTensor x, Tensor y, Tape* tape, Context& ctx) const {
  require(x.last() == channels_, "{}: got {} channels, expected {}", gamma_->name, x.last(), channels_);
  if (!tape) return apply(x, y, ctx);
  const Tensor mean = tape->arena().take(Shape{x.rows()}, x.dtype), rstd = tape->arena().take(Shape{x.rows()}, x.dtype);
  const RowLayout rows = RowLayout::contiguous(x.rows(), channels_);
  forward_rows(x.data, rows, y.data, rows, mean, rstd, ctx);
  tape->push(LayerNormRecord{x, mean, rstd});
}

void LayerNorm::backward(ConstTensor dy, Tensor dx, Accumulate mode, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<LayerNormRecord>();
  backward(r.x, r.mean, r.rstd, dy, dx, mode, ctx);
}

void LayerNorm::statistics(ConstTensor x, Tensor mean, Tensor rstd, Context& ctx) const {
  const RowLayout rows = RowLayout::contiguous(x.rows(), channels_);
  forward_rows(x.data, rows, nullptr, rows, mean, rstd, ctx);
}

void LayerNorm::apply(ConstTensor x, Tensor y, Context& ctx) const {
  const RowLayout rows = RowLayout::contiguous(x.rows(), channels_);
  forward_rows(x.data, rows, y.data, rows, {}, {}, ctx);
}

// With x̂ = (x - mean) · rstd and g = dy · gamma:
// dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)), dgamma += sum dy · x̂, dbeta += sum dy.
void LayerNorm::backward(ConstTensor x, ConstTensor mean, ConstTensor rstd, ConstTensor dy, Tensor dx, Accumulate mode,
                         Context& ctx) const {
  LayerNormBackwardArgs a;
  a.channels = channels_;
  a.x_rows = a.dy_rows = a.dx_rows = RowLayout::contiguous(x.rows(), channels_);
  a.x = x.data;
  a.mean = mean.data;
  a.rstd = rstd.data;
  a.gamma = gamma_->value.data;
  a.dy = dy.data;
  a.dx = dx.data;
  a.accumulate_dx = mode == Accumulate::kYes;
  a.dgamma = gamma_->grad.data;
  a.dbeta = beta_->grad.data;
  ctx.kernels().layer_norm_backward(a, ctx);
}

void LayerNorm::forward_rows(const void* x, const RowLayout& x_rows, void* y, const RowLayout& y_rows, Tensor mean, Tensor rstd,
                             Context& ctx) const {
  LayerNormArgs a;
  a.channels = channels_;
  a.epsilon = epsilon_;
  a.x_rows = x_rows;
  a.y_rows = y_rows;
  a.x = x;
  a.gamma = gamma_->value.data;
  a.beta = beta_->value.data;
  a.y = y;
  a.mean = mean.data;
  a.rstd = rstd.data;
  ctx.kernels().layer_norm(a, ctx);
}

void LayerNorm::backward_rows(const void* x, const RowLayout& x_rows, ConstTensor mean, ConstTensor rstd, const void* dy,
                              const RowLayout& dy_rows, void* dx, const RowLayout& dx_rows, Context& ctx) const {
  LayerNormBackwardArgs a;
  a.channels = channels_;
  a.x_rows = x_rows;
  a.dy_rows = dy_rows;
  a.dx_rows = dx_rows;
  a.x = x;
  a.mean = mean.data;
  a.rstd = rstd.data;
  a.gamma = gamma_->value.data;
  a.dy = dy;
  a.dx = dx;
  a.dgamma = gamma_->grad.data;
  a.dbeta = beta_->grad.data;
  ctx.kernels().layer_norm_backward(a, ctx);
}

}  // namespace fovea
