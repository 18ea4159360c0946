#include "attention/bias_table.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/convert.h"
#include "kernels/kernel_table.h"

namespace fovea {

namespace {

// Keys 1981, with PyTorch's parameter.
double cubic_at(double x) {
  constexpr double a = -0.75;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

std::vector<double> bicubic_weights(int64_t from, int64_t to) {
  std::vector<double> w(static_cast<size_t>(from * to), 0.0);
  for (int64_t i = 0; i < to; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const auto base = static_cast<int64_t>(std::floor(centre));
    for (int64_t j = base - 1; j <= base + 2; ++j)
      w[static_cast<size_t>(i * from + std::clamp<int64_t>(j, 0, from - 1))] += cubic_at(centre - static_cast<double>(j));
  }
  return w;
}

// Where the rows of the learned table stand on the wanted offsets' axis: 0, 1, 1 + q, 1 + q + q^2, ..., q such that the last falls on
// the last wanted offset, within the bounds of timm's search for it. In float, as there.
std::vector<float> geometric_places(int64_t from_window, int64_t to_window) {
  const auto steps = static_cast<double>(from_window - 1), last = static_cast<double>(to_window - 1);
  double left = 1.01, right = 1.5, q = left;
  while (right - left > 1e-6) {
    q = (left + right) / 2;
    if ((1 - std::pow(q, steps)) / (1 - q) > last) right = q;
    else left = q;
  }
  std::vector<float> places(static_cast<size_t>(2 * from_window - 1), 0.0F);
  double place = 1;
  for (int64_t i = 1; i < from_window; ++i) {
    places[static_cast<size_t>(from_window - 1 + i)] = static_cast<float>(place);
    places[static_cast<size_t>(from_window - 1 - i)] = static_cast<float>(-place);
    place += std::pow(q, static_cast<double>(i));
  }
  return places;
}

std::vector<double> geometric_weights(int64_t from_window, int64_t to_window) {
  const std::vector<float> places = geometric_places(from_window, to_window);
  const int64_t from = std::ssize(places), to = 2 * to_window - 1;
  std::vector<double> w(static_cast<size_t>(from * to), 0.0);
  for (int64_t i = 0; i < to; ++i) {
    double* row = w.data() + i * from;
    const auto offset = static_cast<float>(i - (to_window - 1));
    const int64_t right = std::lower_bound(places.begin(), places.end(), offset) - places.begin();
    if (right == 0 || right == from) {  // beyond the table's ends
      row[std::min(right, from - 1)] = 1;
      continue;
    }
    const double below = offset - places[static_cast<size_t>(right - 1)], above = places[static_cast<size_t>(right)] - offset;
    row[right - 1] = above / (below + above);
    row[right] = below / (below + above);
  }
  return w;
}

// (to_rows, from_rows): both axes at once. Tables are small, and inferences keep what comes out.
Tensor table_matrix(const TableSizes& s, TableResampling how, Context& ctx) {
  const std::string key = fmt::format("bias table {} {}x{} {}x{}", static_cast<int>(how), s.from_h, s.from_w, s.to_h, s.to_w);
  const auto& values = ctx.cached<std::vector<double>>(key, [&] {
    const std::vector<double> wy = offset_weights(s.from_h, s.to_h, how), wx = offset_weights(s.from_w, s.to_w, how);
    const int64_t from_y = 2 * s.from_h - 1, from_x = 2 * s.from_w - 1, to_y = 2 * s.to_h - 1, to_x = 2 * s.to_w - 1;
    std::vector<double> m;
    m.reserve(static_cast<size_t>(s.to_rows() * s.from_rows()));
    for (int64_t y = 0; y < to_y; ++y)
      for (int64_t x = 0; x < to_x; ++x)
        for (int64_t v = 0; v < from_y; ++v)
          for (int64_t u = 0; u < from_x; ++u) m.push_back(wy[static_cast<size_t>(y * from_y + v)] * wx[static_cast<size_t>(x * from_x + u)]);
    return m;
  });
  const Shape shape{s.to_rows(), s.from_rows()};
  const Tensor t = ctx.scratch().take(shape, ctx.dtype());
  convert(ConstTensor(values.data(), shape, DType::kF64), t);
  return t;
}

}  // namespace

std::vector<double> offset_weights(int64_t from, int64_t to, TableResampling how) {
  check(from > 0 && to > 0 && how != TableResampling::kCrop, "a table from windows of {} to windows of {}", from, to);
  return how == TableResampling::kBicubic ? bicubic_weights(2 * from - 1, 2 * to - 1) : geometric_weights(from, to);
}

void resample_bias_table(const TableSizes& s, TableResampling how, ConstTensor x, Tensor y, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  GemmArgs g;
  g.m = s.to_rows();
  g.k = g.a_stride = s.from_rows();
  g.n = g.b_stride = g.c_stride = x.shape.last();
  g.a = table_matrix(s, how, ctx).data;
  g.b = x.data;
  g.c = y.data;
  ctx.kernels().gemm(g, ctx);
}

void resample_bias_table_backward(const TableSizes& s, TableResampling how, ConstTensor dy, Tensor dx, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  GemmArgs g;
  g.m = g.a_stride = s.from_rows();
  g.k = s.to_rows();
  g.n = g.b_stride = g.c_stride = dx.shape.last();
  g.a = table_matrix(s, how, ctx).data;
  g.a_transposed = true;
  g.b = dy.data;
  g.c = dx.data;
  g.accumulate = true;
  ctx.kernels().gemm(g, ctx);
}

}  // namespace fovea
