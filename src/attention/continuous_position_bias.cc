#include "attention/continuous_position_bias.h"

#include <algorithm>
#include <cmath>

#include "core/convert.h"

namespace fovea {

namespace {

constexpr int64_t kHidden = 512;
constexpr double kLargestBias = 16;
constexpr double kInitialDeviation = 0.02;  // of both weights, whatever their width, as published

// sign(u) log2(|u| + 1) / log2(8) with u = 8 offset / (reference - 1): the largest offset of the reference window is about 1.
double log_spaced(int64_t offset, int64_t reference) {
  const double u = 8.0 * static_cast<double>(offset) / static_cast<double>(std::max<int64_t>(1, reference - 1));
  return std::copysign(std::log2(std::fabs(u) + 1) / 3, u);
}

}  // namespace

ContinuousPositionBias::ContinuousPositionBias(const Scope& scope, int64_t heads)
    : fc1_(scope / "cpb_mlp" / int64_t{0}, 2, kHidden, Bias::kYes, Init::truncated_normal(kInitialDeviation), Decay::kNo),
      fc2_(scope / "cpb_mlp" / int64_t{2}, kHidden, heads, Bias::kNo, Init::truncated_normal(kInitialDeviation), Decay::kNo) {}

Tensor ContinuousPositionBias::coordinates(const OffsetTable& o, Context& ctx) const {
  const std::string key = fmt::format("offsets {}x{} {}x{}", o.window_h, o.window_w, o.reference_h, o.reference_w);
  const auto& values = ctx.cached<std::vector<double>>(key, [&] {
    std::vector<double> v;
    for (int64_t dy = 1 - o.window_h; dy < o.window_h; ++dy)
      for (int64_t dx = 1 - o.window_w; dx < o.window_w; ++dx) {
        v.push_back(log_spaced(dy, o.reference_h));
        v.push_back(log_spaced(dx, o.reference_w));
      }
    return v;
  });
  const Shape shape{o.rows(), 2};
  const Tensor t = ctx.scratch().take(shape, ctx.dtype());
  convert(ConstTensor(values.data(), shape, DType::kF64), t);
  return t;
}

void ContinuousPositionBias::forward(const OffsetTable& o, Tensor table, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Tensor t = coordinates(o, ctx), hidden = ctx.scratch().take(Shape{o.rows(), kHidden}, ctx.dtype());
  LinearFusion fusion;
  fusion.activation = Activation::kRelu;
  fc1_.apply(t, hidden, fusion, ctx);
  fc2_.apply(hidden, table, {}, ctx);
  ctx.kernels().scaled_sigmoid(table.elements(), kLargestBias, table.data, table.data, ctx);
}

// With h = relu(t W1ᵀ + b1), z = h W2ᵀ: dz = 16 σ(z)(1 - σ(z)) dtable, then the perceptron's backward. h and z are computed
// again: the table is small and keeps no record.
void ContinuousPositionBias::backward(const OffsetTable& o, ConstTensor dtable, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const Tensor t = coordinates(o, ctx), hidden = ctx.scratch().take(Shape{o.rows(), kHidden}, ctx.dtype());
  LinearFusion fusion;
  fusion.activation = Activation::kRelu;
  fc1_.apply(t, hidden, fusion, ctx);
  const Tensor z = ctx.scratch().take(dtable.shape, ctx.dtype());
  fc2_.apply(hidden, z, {}, ctx);
  const Tensor dz = ctx.scratch().take(dtable.shape, ctx.dtype());
  k.scaled_sigmoid_backward(z.elements(), kLargestBias, z.data, dtable.data, dz.data, ctx);
  fc2_.backward_parameters(hidden, dz, ctx);
  const Tensor dhidden = ctx.scratch().take(hidden.shape, ctx.dtype());
  fc2_.backward_input(dz, dhidden, Accumulate::kNo, ctx);
  k.activation_backward(Activation::kRelu, hidden.elements(), hidden.data, dhidden.data, dhidden.data, ctx);  // positive where its input is
  fc1_.backward_parameters(t, dhidden, ctx);
}

double ContinuousPositionBias::flops(const OffsetTable& o) const {
  return 2.0 * static_cast<double>(o.rows()) * static_cast<double>(kHidden * (2 + fc2_.out()));
}

}  // namespace fovea
