#include "blocks/mlp.h"

#include <algorithm>

namespace fovea {

namespace {

struct MlpRecord {
  ConstTensor x, mean, rstd;
  ConstTensor pre;  // (rows, hidden) before the activation
};

// Rows a step of inference, for each thread: their hidden values should stay in its second-level cache, but wide weights want to be
// read for more than a few rows.
constexpr int64_t kHiddenElementsPerStep = int64_t{1} << 17, kLeastRowsPerStep = 128;

ConstTensor flat(const ConstTensor& t) { return t.reshaped(Shape{t.rows(), t.last()}); }

}  // namespace

Mlp::Mlp(const Scope& scope, int64_t dim, int64_t hidden, Activation activation)
    : fc1_(scope / "fc1", dim, hidden, Bias::kYes), fc2_(scope / "fc2", hidden, dim, Bias::kYes), activation_(activation) {}

void Mlp::forward(ConstTensor x, const LayerNorm* norm, ConstTensor residual, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const int64_t rows = x.rows(), hidden = fc1_.out();
  LinearFusion first, second;
  first.norm = norm;
  first.activation = activation_;
  if (tape) {
    Tensor mean, rstd;
    if (norm) {
      mean = ctx.activation(Shape{rows}, tape);
      rstd = ctx.activation(Shape{rows}, tape);
      norm->statistics(x, mean, rstd, ctx);
    }
    const Tensor pre = ctx.activation(Shape{rows, hidden}, tape), h = ctx.scratch().take(Shape{rows, hidden}, ctx.dtype());
    first.mean = mean;
    first.rstd = rstd;
    first.pre_activation = pre;
    second.residual = residual;
    fc1_.apply(flat(x), h, first, ctx);
    fc2_.apply(h, y, second, ctx);
    tape->push(MlpRecord{x, mean, rstd, pre});
    return;
  }
  const int64_t most = ctx.pool().threads() * std::max(kLeastRowsPerStep, kHiddenElementsPerStep / hidden);
  const int64_t steps = std::max<int64_t>(1, (rows + most - 1) / most), step = std::max<int64_t>(1, (rows + steps - 1) / steps);
  // What is rounded for the next product anyway takes half the room.
  const Tensor h = ctx.scratch().take(Shape{step, hidden}, fc1_.rounds() && fc2_.rounds() ? DType::kBF16 : ctx.dtype());
  const ConstTensor x_rows = flat(x), residual_rows = residual.empty() ? residual : flat(residual);
  const Tensor y_rows = y.reshaped(Shape{rows, fc2_.out()});
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    if (!residual.empty()) second.residual = residual_rows.slice(begin, count);
    fc1_.apply(x_rows.slice(begin, count), h.slice(0, count), first, ctx);
    fc2_.apply(h.slice(0, count), y_rows.slice(begin, count), second, ctx);
  }
}

// With h = act(p), p = n W1ᵀ + b1, n = norm(x): dh = dy W2, dp = dh · act'(p), dn = dp W1, dx += norm's backward of dn.
void Mlp::backward(ConstTensor dy, const LayerNorm* norm, Tensor dx, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<MlpRecord>();
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t rows = r.x.rows(), count = rows * fc1_.out();
  const Tensor h = ctx.scratch().take(Shape{rows, fc1_.out()}, ctx.dtype());
  k.activation(activation_, count, r.pre.data, h.data, ctx);
  const ConstTensor dy_rows = flat(dy);
  fc2_.backward_parameters(h, dy_rows, ctx);
  const Tensor dp = h;  // h is done with
  fc2_.backward_input(dy_rows, dp, Accumulate::kNo, ctx);
  k.activation_backward(activation_, count, r.pre.data, dp.data, dp.data, ctx);
  if (!norm) {
    fc1_.backward_parameters(r.x, dp, ctx);
    fc1_.backward_input(dp, dx, Accumulate::kYes, ctx);
    return;
  }
  const Tensor n = ctx.scratch().take(Shape{rows, fc1_.in()}, ctx.dtype());
  norm->apply(r.x, n, ctx);
  fc1_.backward_parameters(n, dp, ctx);
  const Tensor dn = n;  // n is done with
  fc1_.backward_input(dp, dn, Accumulate::kNo, ctx);
  norm->backward(r.x, r.mean, r.rstd, dn, dx, Accumulate::kYes, ctx);
}

double Mlp::flops(int64_t rows) const { return 4.0 * static_cast<double>(rows) * static_cast<double>(fc1_.in() * fc1_.out()); }

}  // namespace fovea
