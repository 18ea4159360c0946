#include "ops/rotary.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "core/convert.h"

namespace fovea {

namespace {

// What each channel of a sequence's heads is multiplied by: cosines for itself, sines (with its sign) for its partner.
struct Angles {
  Buffer memory;
  Tensor cosines, sines, opposite_sines;  // (N H D)
};

Angles make_angles(int64_t tokens, int64_t heads, int64_t head_dim, int64_t first, double base, DType dtype) {
  Angles a;
  const int64_t count = tokens * heads * head_dim, half = head_dim / 2;
  a.memory = Buffer(static_cast<size_t>(3 * count) * size_of(dtype));
  const Tensor all{a.memory.data(), Shape{3, count}, dtype};
  a.cosines = all.slice(0, 1);
  a.sines = all.slice(1, 1);
  a.opposite_sines = all.slice(2, 1);
  for (int64_t n = 0; n < tokens; ++n) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const double angle = static_cast<double>(n + first) *
                           std::pow(base, -2.0 * static_cast<double>(d % half) / static_cast<double>(head_dim));
      const double sine = d < half ? -std::sin(angle) : std::sin(angle);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t i = (n * heads + h) * head_dim + d;
        store_scalar(a.cosines, i, std::cos(angle));
        store_scalar(a.sines, i, sine);
        store_scalar(a.opposite_sines, i, -sine);
      }
    }
  }
  return a;
}

std::vector<int32_t> swapped_halves(int64_t halves) {
  std::vector<int32_t> index(static_cast<size_t>(halves));
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>(i ^ 1);
  return index;
}

}  // namespace

// y = x ∘ cos + partner(x) ∘ ±sin, from a gather of half rows and two products by channel.
void Rotary::turn(ConstTensor x, int64_t first, bool back, Tensor y, Context& ctx) const {
  const int64_t batch = x.dim(0), tokens = x.dim(1), heads = x.dim(2), head_dim = x.dim(3);
  require(head_dim % 2 == 0, "rotary positions pair channels: {} channels a head are an odd number", head_dim);
  check(y.data != x.data, "rotary positions do not work in place");
  const int64_t channels = tokens * heads * head_dim;
  if (batch * channels == 0) return;
  const Angles& a = ctx.cached<Angles>(fmt::format("rotary {} {} {} {} {}", tokens, heads, head_dim, first, base),
                                       [&] { return make_angles(tokens, heads, head_dim, first, base, ctx.dtype()); });
  const int64_t halves = batch * tokens * heads * 2;
  const auto& swapped = ctx.cached<std::vector<int32_t>>(fmt::format("rotary halves {}", halves), [&] { return swapped_halves(halves); });
  ArenaScope scope(ctx.scratch());
  const Tensor partner = ctx.scratch().take(x.shape, x.dtype);
  const KernelTable& k = ctx.kernels();
  k.gather_rows(halves, head_dim / 2, x.data, swapped.data(), partner.data, ctx);
  k.scale_columns(batch, channels, a.cosines.data, x.data, nullptr, y.data, ctx);
  k.scale_columns(batch, channels, (back ? a.opposite_sines : a.sines).data, partner.data, y.data, y.data, ctx);
}

void Rotary::forward(ConstTensor x, int64_t first, Tensor y, Context& ctx) const { turn(x, first, false, y, ctx); }

// Rotations are orthogonal: dx is dy turned back by the same angles.
void Rotary::backward(ConstTensor dy, int64_t first, Tensor dx, Context& ctx) const { turn(dy, first, true, dx, ctx); }

}  // namespace fovea
