#include "attention/sequence_projection.h"

#include <cmath>

namespace fovea {

SequenceProjection::SequenceProjection(const Scope& scope, const std::string& channels, const std::string& rows, int64_t in,
                                       int64_t out, Bias bias, int64_t max_tokens, int64_t slots)
    : channels_(scope / channels, in, out, Bias::kNo) {
  // The bias is weighted by Eᵀ 1, so it is no part of the Linear.
  if (bias == Bias::kYes) bias_ = (scope / channels).param("bias", Shape{out}, Init::zeros(), Decay::kNo);
  rows_ = scope.param(rows, Shape{max_tokens, slots}, Init::uniform(1 / std::sqrt(static_cast<double>(slots))), Decay::kYes);
}

// Row of E for each token, -1 where the token is padding; null when every token has its own.
const int32_t* SequenceProjection::used_rows(const Record& r, Context& ctx) const {
  if (!r.padding) return nullptr;
  const int64_t tokens = r.x.dim(1), count = r.x.dim(0) * tokens;
  int32_t* rows = ctx.scratch().take<int32_t>(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = r.padding[i] != 0 ? -1 : static_cast<int32_t>(i % tokens);
  return rows;
}

SequenceProjection::Record SequenceProjection::forward(ConstTensor x, const uint8_t* padding, Tensor y, Tape* tape,
                                                       Context& ctx) const {
  const int64_t batch = x.dim(0), tokens = x.dim(1), k = slots();
  require(tokens <= max_tokens(), "{}: {} tokens are more than its {} rows", rows_->name, tokens, max_tokens());
  Record r;
  r.x = x;
  r.padding = padding;
  r.reduced = ctx.activation(Shape{batch, k, in()}, tape);
  if (bias_) r.sums = ctx.activation(Shape{batch, k}, tape);
  ArenaScope scope(ctx.scratch());
  const int32_t* used = used_rows(r, ctx);
  const Tensor masked = used ? ctx.scratch().take(Shape{tokens, k}, ctx.dtype()) : Tensor();
  if (bias_) r.sums.zero();
  for (int64_t b = 0; b < batch; ++b) {
    const void* e = rows_->value.data;
    if (used) {
      ctx.kernels().gather_rows(tokens, k, rows_->value.data, used + b * tokens, masked.data, ctx);
      e = masked.data;
    }
    GemmArgs g;
    g.m = k;
    g.n = g.b_stride = g.c_stride = in();
    g.k = tokens;
    g.a = e;
    g.a_stride = k;
    g.a_transposed = true;
    g.b = x.slice(b, 1).data;
    g.c = r.reduced.slice(b, 1).data;
    ctx.kernels().gemm(g, ctx);
    // Without padding the sums are the same for every element; they are few.
    if (bias_) ctx.kernels().column_sum(tokens, k, k, e, r.sums.slice(b, 1).data, ctx);
  }
  LinearFusion fusion;
  if (bias_) {
    const Tensor shift = ctx.scratch().take(Shape{batch, k, out()}, ctx.dtype());
    GemmArgs g;
    g.m = batch * k;
    g.n = g.b_stride = g.c_stride = out();
    g.k = g.a_stride = 1;
    g.a = r.sums.data;
    g.b = bias_->value.data;
    g.c = shift.data;
    ctx.kernels().gemm(g, ctx);
    fusion.residual = shift;
  }
  channels_.apply(r.reduced, y, fusion, ctx);
  return r;
}

// With R = Eᵀ x and s = Eᵀ 1: dW += Gᵀ R, db += sᵀ G, dR = G W, dE += x dRᵀ + 1 (G b)ᵀ, dx = E dR; rows of padding are rows of
// zeros in E.
void SequenceProjection::backward(const Record& r, ConstTensor dy, Tensor dx, Accumulate dx_mode, Context& ctx) const {
  const int64_t batch = r.x.dim(0), tokens = r.x.dim(1), k = slots();
  ArenaScope scope(ctx.scratch());
  channels_.backward_parameters(r.reduced, dy, ctx);
  const Tensor dreduced = ctx.scratch().take(r.reduced.shape, ctx.dtype());
  channels_.backward_input(dy, dreduced, Accumulate::kNo, ctx);
  Tensor dsums;
  if (bias_) {
    dsums = ctx.scratch().take(r.sums.shape, ctx.dtype());
    GemmArgs g;
    g.m = batch * k;
    g.n = g.b_stride = g.c_stride = 1;
    g.k = g.a_stride = out();
    g.a = dy.data;
    g.b = bias_->value.data;
    g.c = dsums.data;
    ctx.kernels().gemm(g, ctx);
  }
  if (bias_ && !bias_->frozen) {
    GemmArgs g;
    g.m = 1;
    g.n = g.b_stride = g.c_stride = out();
    g.k = g.a_stride = batch * k;
    g.a = r.sums.data;
    g.b = dy.data;
    g.c = bias_->grad.data;
    g.accumulate = true;
    ctx.kernels().gemm(g, ctx);
  }
  const int32_t* used = used_rows(r, ctx);
  for (int64_t b = 0; b < batch; ++b) {
    const void* dreduced_b = dreduced.slice(b, 1).data;
    if (!rows_->frozen) {
      GemmArgs g;
      g.m = tokens;
      g.n = g.c_stride = g.residual_stride = k;
      g.k = g.a_stride = g.b_stride = in();
      g.a = r.x.slice(b, 1).data;
      g.b = dreduced_b;
      g.b_transposed = true;
      if (bias_) g.bias = dsums.slice(b, 1).data;
      g.residual = rows_->grad.data;
      g.c = rows_->grad.data;
      if (used) g.c_rows = used + b * tokens;
      ctx.kernels().gemm(g, ctx);
    }
    GemmArgs g;
    g.m = tokens;
    g.n = g.b_stride = g.c_stride = in();
    g.k = g.a_stride = k;
    g.a = rows_->value.data;
    if (used) g.a_rows = used + b * tokens;
    g.b = dreduced_b;
    g.c = dx.slice(b, 1).data;
    g.accumulate = dx_mode == Accumulate::kYes;
    ctx.kernels().gemm(g, ctx);
  }
}

double SequenceProjection::flops(int64_t batch, int64_t tokens) const {
  return 2.0 * static_cast<double>(batch * slots()) * static_cast<double>(in()) * static_cast<double>(tokens + out());
}

}  // namespace fovea
