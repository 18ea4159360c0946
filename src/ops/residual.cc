#include "ops/residual.h"

#include "core/convert.h"

namespace fovea {

namespace {

struct ResidualRecord {
  ConstTensor branch;  // f's output (after dropout), kept for dgamma
};

enum RandomTag : uint64_t { kDropoutTag = 0, kPathTag = 1 };

}  // namespace

Residual::Residual(const Scope& scope, const ResidualConfig& config) : config_(config) {
  if (config.layer_scale != 0)
    gamma_ = scope.param("gamma", Shape{config.channels}, Init::constant(config.layer_scale), Decay::kNo);
}

Tensor Residual::path_scale(int64_t batch, Context& ctx) const {
  const Tensor scale = ctx.scratch().take(Shape{batch}, ctx.dtype());
  const Rng rng = ctx.rng().fork(config_.tag * 2 + kPathTag);
  for (int64_t b = 0; b < batch; ++b) {
    const bool dropped = rng.uniform(static_cast<uint64_t>(b)) < config_.drop_path;
    store_scalar(scale, b, dropped ? 0.0 : 1.0 / (1.0 - config_.drop_path));
  }
  return scale;
}

void Residual::join(ConstTensor x, Tensor branch, Tensor y, Tape* tape, Context& ctx) const {
  const KernelTable& k = ctx.kernels();
  const int64_t rows = x.rows(), channels = x.last();
  if (ctx.training() && config_.dropout > 0)
    k.dropout({branch.elements(), config_.dropout, ctx.rng().fork(config_.tag * 2 + kDropoutTag), branch.data, branch.data}, ctx);
  const bool drop_path = ctx.training() && config_.drop_path > 0;
  ConstTensor scaled = branch;
  if (gamma_) {
    if (tape) tape->push(ResidualRecord{branch});
    if (!drop_path) return k.scale_columns(rows, channels, gamma_->value.data, branch.data, x.data, y.data, ctx);
    const Tensor product = ctx.scratch().take(x.shape, x.dtype);
    k.scale_columns(rows, channels, gamma_->value.data, branch.data, nullptr, product.data, ctx);
    scaled = product;
  }
  if (!drop_path) return k.add(x.elements(), x.data, scaled.data, y.data, ctx);
  k.scale_rows(rows, channels, rows / x.dim(0), path_scale(x.dim(0), ctx).data, scaled.data, x.data, y.data, ctx);
}

void Residual::split(ConstTensor dy, Tensor dbranch, Tape& tape, Context& ctx) const {
  const KernelTable& k = ctx.kernels();
  const int64_t rows = dy.rows(), channels = dy.last();
  ConstTensor d = dy;
  if (ctx.training() && config_.drop_path > 0) {
    const Tensor kept = gamma_ ? ctx.scratch().take(dy.shape, dy.dtype) : dbranch;
    k.scale_rows(rows, channels, rows / dy.dim(0), path_scale(dy.dim(0), ctx).data, d.data, nullptr, kept.data, ctx);
    d = kept;
  }
  if (gamma_) {
    const auto record = tape.pop<ResidualRecord>();
    k.scale_columns_backward(rows, channels, gamma_->value.data, record.branch.data, d.data, dbranch.data, gamma_->grad.data, ctx);
    d = dbranch;
  }
  if (ctx.training() && config_.dropout > 0) {
    k.dropout({d.elements(), config_.dropout, ctx.rng().fork(config_.tag * 2 + kDropoutTag), d.data, dbranch.data}, ctx);
    d = dbranch;
  }
  check(d.data == dbranch.data, "a residual branch without scale or dropout is split");
}

}  // namespace fovea
