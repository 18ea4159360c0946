#include "blocks/mlp.h"

#include <algorithm>

namespace fovea {

namespace {

struct MlpRecord {
  ConstTensor x, mean, rstd;
  ConstTensor pre;  // (rows, fc1's outputs) before the activation
};

// Rows a step of inference, for each thread: their hidden values should stay in its second-level cache, but wide weights want to be
// read for more than a few rows.
constexpr int64_t kHiddenElementsPerStep = int64_t{1} << 17, kLeastRowsPerStep = 208;

// Rows a step of training: their hidden values, and those values' gradients, should stay in the last cache between the products that
// write and read them. Gradients of weights are sums over the steps, so these depend on sizes alone.
constexpr int64_t kHiddenElementsPerTrainingStep = int64_t{1} << 21;

int64_t training_step(int64_t rows, int64_t hidden) {
  const int64_t steps = std::max<int64_t>(1, (rows * hidden + kHiddenElementsPerTrainingStep - 1) / kHiddenElementsPerTrainingStep);
  return std::max<int64_t>(1, (rows + steps - 1) / steps);
}

ConstTensor flat(const ConstTensor& t) { return t.reshaped(Shape{t.rows(), t.last()}); }

}  // namespace

Mlp::Mlp(const Scope& scope, int64_t dim, int64_t hidden, Activation activation, bool gated)
    : fc1_(scope / "fc1", dim, gated ? 2 * hidden : hidden, Bias::kYes),
      fc2_(scope / "fc2", hidden, dim, Bias::kYes),
      activation_(activation),
      gated_(gated) {}

void Mlp::forward(ConstTensor x, const LayerNorm* norm, ConstTensor residual, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t rows = x.rows(), width = fc1_.out(), hidden = fc2_.in();
  // What is rounded for the next product anyway takes half the room.
  const DType h_dtype = !gated_ && fc1_.rounds(ctx) && fc2_.rounds(ctx) ? DType::kBF16 : ctx.dtype();
  LinearFusion first, second;
  first.norm = norm;
  if (!gated_) first.activation = activation_;
  if (tape) {
    Tensor mean, rstd;
    if (norm) {
      mean = ctx.activation(Shape{rows}, tape);
      rstd = ctx.activation(Shape{rows}, tape);
      norm->statistics(x, mean, rstd, ctx);
    }
    const int64_t step = training_step(rows, width);
    const Tensor pre = ctx.activation(Shape{rows, width}, tape), h = ctx.scratch().take(Shape{step, hidden}, h_dtype);
    const Tensor y_rows = y.reshaped(Shape{rows, fc2_.out()});
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      if (norm) {
        first.mean = mean.slice(begin, count);
        first.rstd = rstd.slice(begin, count);
      }
      const Tensor pre_step = pre.slice(begin, count), h_step = h.slice(0, count);
      if (!gated_) first.pre_activation = pre_step;
      if (!residual.empty()) second.residual = flat(residual).slice(begin, count);
      fc1_.apply(flat(x).slice(begin, count), gated_ ? pre_step : h_step, first, ctx);
      if (gated_) k.gate(activation_, count, hidden, pre_step.data, h_step.data, ctx);
      fc2_.apply(h_step, y_rows.slice(begin, count), second, ctx);
    }
    tape->push(MlpRecord{x, mean, rstd, pre});
    return;
  }
  const ConstTensor x_rows = flat(x), residual_rows = residual.empty() ? residual : flat(residual);
  const Tensor y_rows = y.reshaped(Shape{rows, fc2_.out()});
  const auto infer = [&](int64_t first_row, int64_t end_row, Context& own) {
    ArenaScope own_scope(own.scratch());
    LinearFusion one = first, two;
    const int64_t most = own.pool().threads() * std::max(kLeastRowsPerStep, kHiddenElementsPerStep / width), all = end_row - first_row;
    const int64_t steps = std::max<int64_t>(1, (all + most - 1) / most), step = std::max<int64_t>(1, (all + steps - 1) / steps);
    const Tensor h = own.scratch().take(Shape{step, hidden}, h_dtype);
    const Tensor pre = gated_ ? own.scratch().take(Shape{step, width}, own.dtype()) : h;
    for (int64_t begin = first_row; begin < end_row; begin += step) {
      const int64_t count = std::min(step, end_row - begin);
      if (!residual.empty()) two.residual = residual_rows.slice(begin, count);
      fc1_.apply(x_rows.slice(begin, count), pre.slice(0, count), one, own);
      if (gated_) own.kernels().gate(activation_, count, hidden, pre.data, h.data, own);
      fc2_.apply(h.slice(0, count), y_rows.slice(begin, count), two, own);
    }
  };
  const int threads = ctx.pool().threads();
  if (threads == 1 || rows < threads * kLeastRowsAlone) return infer(0, rows, ctx);
  ctx.share_out(rows, infer);
}

// With h = act(p) (or gated), p = n W1ᵀ + b1, n = norm(x): dh = dy W2, dp = dh · act'(p) (or the gate's backward), dn = dp W1, dx += norm's backward of dn.
void Mlp::backward(ConstTensor dy, const LayerNorm* norm, Tensor dx, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<MlpRecord>();
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t rows = r.x.rows(), width = fc1_.out(), hidden = fc2_.in(), step = training_step(rows, width);
  const Tensor h_memory = ctx.scratch().take(Shape{step, hidden}, ctx.dtype());
  const Tensor dp_memory = gated_ ? ctx.scratch().take(Shape{step, width}, ctx.dtype()) : h_memory;
  const Tensor n_memory = norm ? ctx.scratch().take(Shape{step, fc1_.in()}, ctx.dtype()) : Tensor();
  const Tensor dx_rows = dx.reshaped(Shape{rows, fc1_.in()});
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const ConstTensor x = flat(r.x).slice(begin, count), pre = r.pre.slice(begin, count), dy_step = flat(dy).slice(begin, count);
    const Tensor h = h_memory.slice(0, count), dx_step = dx_rows.slice(begin, count);
    if (gated_)
      k.gate(activation_, count, hidden, pre.data, h.data, ctx);
    else
      k.activation(activation_, h.elements(), pre.data, h.data, ctx);
    fc2_.backward_parameters(h, dy_step, ctx);
    const Tensor dh = h, dp = dp_memory.slice(0, count);  // h is done with
    fc2_.backward_input(dy_step, dh, Accumulate::kNo, ctx);
    if (gated_)
      k.gate_backward(activation_, count, hidden, pre.data, dh.data, dp.data, ctx);
    else
      k.activation_backward(activation_, dp.elements(), pre.data, dh.data, dp.data, ctx);
    if (!norm) {
      fc1_.backward_parameters(x, dp, ctx);
      fc1_.backward_input(dp, dx_step, Accumulate::kYes, ctx);
      continue;
    }
    const Tensor n = n_memory.slice(0, count);
    norm->apply(x, n, ctx);
    fc1_.backward_parameters(n, dp, ctx);
    const Tensor dn = n;  // n is done with
    fc1_.backward_input(dp, dn, Accumulate::kNo, ctx);
    norm->backward(x, r.mean.slice(begin, count), r.rstd.slice(begin, count), dn, dx_step, Accumulate::kYes, ctx);
  }
}

double Mlp::flops(int64_t rows) const { return 2.0 * static_cast<double>(rows) * static_cast<double>(fc1_.in() * fc1_.out() + fc2_.in() * fc2_.out()); }

}  // namespace fovea
