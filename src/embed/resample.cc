#include "embed/resample.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/convert.h"
#include "kernels/kernel_table.h"

namespace fovea {

namespace {

// Keys 1981: the cubic convolution kernel.
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

Tensor weights_tensor(int64_t from, int64_t to, const GridResampling& r, Context& ctx) {
  const auto w = cubic_weights(from, to, r.rule);
  const Tensor t = ctx.scratch().take(Shape{to, from}, ctx.dtype());
  for (size_t i = 0; i < w.size(); ++i) store_scalar(t, static_cast<int64_t>(i), w[i]);
  return t;
}

// c (m, n) = a · b (+ c)
void product(int64_t m, int64_t n, int64_t k, const void* a, int64_t a_stride, bool a_transposed, const void* b, void* c,
             bool accumulate, Context& ctx) {
  GemmArgs g;
  g.m = m;
  g.n = g.b_stride = g.c_stride = n;
  g.k = k;
  g.a = a;
  g.a_stride = a_stride;
  g.a_transposed = a_transposed;
  g.b = b;
  g.c = c;
  g.accumulate = accumulate;
  ctx.kernels().gemm(g, ctx);
}

const void* row(const ConstTensor& t, int64_t elements) {
  return static_cast<const char*>(t.data) + elements * static_cast<int64_t>(size_of(t.dtype));
}

}  // namespace

CubicRule cubic_rule_named(const std::string& name) {
  if (name == "antialiased") return {};
  if (name == "bicubic") return {-0.75, false};
  if (name == "bicubic_corners") return {-0.75, false, true};
  if (name == "bicubic_offset") return {-0.75, false, false, 0.1};
  fail("there is no rule '{}' for position tables; choose antialiased, bicubic, bicubic_corners or bicubic_offset", name);
}

std::vector<double> cubic_weights(int64_t from, int64_t to, const CubicRule& rule) {
  check(!(rule.antialias && (rule.corners || rule.offset != 0)), "an antialiased kernel has half-pixel centres");
  std::vector<double> w(static_cast<size_t>(from * to), 0.0);
  const double steps = rule.corners ? static_cast<double>(to - 1) : static_cast<double>(to) + rule.offset;
  const double scale = steps > 0 ? static_cast<double>(rule.corners ? from - 1 : from) / steps : 0.0;
  const double stretch = rule.antialias ? std::max(scale, 1.0) : 1.0;
  const double support = 2 * stretch;
  for (int64_t i = 0; i < to; ++i) {
    double* row_weights = w.data() + i * from;
    const double centre = rule.corners ? static_cast<double>(i) * scale + 0.5 : (static_cast<double>(i) + 0.5) * scale;
    if (rule.antialias) {
      const auto first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
      const auto last = std::min<int64_t>(from, static_cast<int64_t>(centre + support + 0.5));
      double total = 0;
      for (int64_t j = first; j < last; ++j) total += row_weights[j] = cubic((static_cast<double>(j) - centre + 0.5) / stretch, rule.a);
      for (int64_t j = first; j < last; ++j) row_weights[j] /= total;
    } else {
      const auto base = static_cast<int64_t>(std::floor(centre - 0.5));
      for (int64_t j = base - 1; j <= base + 2; ++j)
        row_weights[std::clamp<int64_t>(j, 0, from - 1)] += cubic(centre - 0.5 - static_cast<double>(j), rule.a);
    }
  }
  return w;
}

// y = (Wy ⊗ Wx) x: columns of each row first, then rows.
void resample_grid(const GridResampling& r, ConstTensor x, Tensor y, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  const int64_t c = x.elements() / (r.from_h * r.from_w);
  const Tensor wy = weights_tensor(r.from_h, r.to_h, r, ctx), wx = weights_tensor(r.from_w, r.to_w, r, ctx);
  const Tensor wide = ctx.scratch().take(Shape{r.from_h, r.to_w, c}, ctx.dtype());
  for (int64_t i = 0; i < r.from_h; ++i)
    product(r.to_w, c, r.from_w, wx.data, r.from_w, false, row(x, i * r.from_w * c),
            const_cast<void*>(row(wide, i * r.to_w * c)), false, ctx);
  product(r.to_h, r.to_w * c, r.from_h, wy.data, r.from_h, false, wide.data, y.data, false, ctx);
}

// dx += (Wy ⊗ Wx)ᵀ dy
void resample_grid_backward(const GridResampling& r, ConstTensor dy, Tensor dx, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  const int64_t c = dx.elements() / (r.from_h * r.from_w);
  const Tensor wy = weights_tensor(r.from_h, r.to_h, r, ctx), wx = weights_tensor(r.from_w, r.to_w, r, ctx);
  const Tensor dwide = ctx.scratch().take(Shape{r.from_h, r.to_w, c}, ctx.dtype());
  product(r.from_h, r.to_w * c, r.to_h, wy.data, r.from_h, true, dy.data, dwide.data, false, ctx);
  for (int64_t i = 0; i < r.from_h; ++i)
    product(r.from_w, c, r.to_w, wx.data, r.from_w, true, row(dwide, i * r.to_w * c),
            const_cast<void*>(row(dx, i * r.from_w * c)), true, ctx);
}

}  // namespace fovea
