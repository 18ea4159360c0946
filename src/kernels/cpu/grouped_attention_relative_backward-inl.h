// The backward of grouped attention's relative term. With dS the gradient of the scores and Z the strip of a block of
// queries: dZ collects dS where the forward read Z (one to one on a line; on a map sums over the keys that share a row, or
// a column), and
//   d(q_i + v) = scale sum_t dZ_it R_t,  dR_t = scale sum_i dZ_it (q_i + v),  db_t = scale sum_i dZ_it,
// while dv is the sum of the first over all queries, and du that of the content's dq.

#if defined(FOVEA_GROUPED_ATTENTION_RELATIVE_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_RELATIVE_BACKWARD_INL_H_
#undef FOVEA_GROUPED_ATTENTION_RELATIVE_BACKWARD_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_RELATIVE_BACKWARD_INL_H_
#endif

#include "kernels/cpu/grouped_attention_relative-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

// What a chunk of the backward collects for one head: rows in the columns' order, without their last factor.
struct RelativeSums {
  float *x_rows = nullptr, *y_rows = nullptr;  // (count, width), to be multiplied by ln 2
  float *x_bias = nullptr, *y_bias = nullptr;  // (count), to be multiplied by the scale
  float *u = nullptr, *v = nullptr;            // (width), likewise
};

// Such sums for every chunk and head, one behind the other.
struct RelativePartials {
  int64_t width = 0, x_count = 0, y_count = 0, one = 0;
  float* data = nullptr;

  RelativePartials() = default;
  RelativePartials(const RelativeTerm& term, int64_t padded_dim)
      : width(padded_dim), x_count(term.x.count), y_count(term.is_map() ? term.y.count : 0) {
    one = (x_count + y_count + 2) * width + plan::round_up(x_count + kLanes, kLanes) + plan::round_up(y_count + kLanes, kLanes);
  }
  RelativeSums of(int64_t i) const {
    RelativeSums s;
    s.x_rows = data + i * one;
    s.y_rows = s.x_rows + x_count * width;
    s.u = s.y_rows + y_count * width;
    s.v = s.u + width;
    s.x_bias = s.v + width;
    s.y_bias = s.x_bias + plan::round_up(x_count + kLanes, kLanes);
    return s;
  }
};

struct RelativeBackwardWorkspace {
  float* dq;        // (queries, width) of q + v, without the scale
  float *dx, *dy;   // (block queries, columns) gradients of the strips

  RelativeBackwardWorkspace(Cutter& c, const RelativeCall* call, int64_t queries, int64_t block_queries, int64_t width)
      : dq(c.take<float>(call ? queries * width : 0)),
        dx(c.take<float>(call ? block_queries * (call->columns_x + kLanes) : 0)),
        dy(c.take<float>(call ? block_queries * (call->columns_y + kLanes) : 0)) {}
  static int64_t bytes(const RelativeCall* call, int64_t queries, int64_t block_queries, int64_t width) {
    if (!call) return 0;
    return Cutter::bytes<float>(queries * width) + Cutter::bytes<float>(block_queries * (call->columns_x + kLanes)) +
           Cutter::bytes<float>(block_queries * (call->columns_y + kLanes));
  }
};

// to (n) += from (n); the sum of from.
inline float collect_stretch(const float* HWY_RESTRICT from, float* HWY_RESTRICT to, int64_t n) {
  int64_t i = 0;
  const auto vectors = [&](auto d, int64_t lanes) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (; i + lanes <= n; i += lanes) {
      const auto x = hn::LoadU(d, from + i);
      hn::StoreU(hn::Add(hn::LoadU(d, to + i), x), d, to + i);
      sum = hn::Add(sum, x);
    }
    return hn::GetLane(hn::SumOfLanes(d, sum));
  };
  float sum = vectors(D(), kLanes);
  if constexpr (kLanes > 4) sum += vectors(hn::CappedTag<float, 4>(), 4);
  for (; i < n; ++i) {
    to[i] += from[i];
    sum += from[i];
  }
  return sum;
}

// With dz (rows, strip) for queries from r on: their d(q + v), and what the axis collects.
inline void strip_backward(const RelativeColumns& columns, const Call& call, const RelativeWorkspace& w, float* dq, int64_t h,
                           Strip strip, int32_t r, int32_t rows, const float* dz, int64_t dz_stride, float* sum_rows,
                           float* sum_bias) {
  const int64_t from = std::max(strip.begin, columns.lead);
  const int64_t to = std::min(strip.begin + strip.count, columns.lead + columns.count());
  if (from >= to) return;
  const auto width_vectors = static_cast<int32_t>(call.width / kLanes);
  const float* z = dz + (from - strip.begin);
  const int64_t row = from - columns.lead;
  const plan::Pieces tiles(rows, kTileRows);
  for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
    const int32_t i = tiles.begin(tile), n = tiles.begin(tile + 1) - i;
    float* c = dq + (r + i) * call.width;
    product(false, n, width_vectors,
            {.a = z + i * dz_stride, .a_stride = dz_stride, .b = columns.rows + (h * columns.count() + row) * call.width,
             .b_stride = call.width, .depth = to - from, .init = c, .init_stride = call.width, .c = c, .c_stride = call.width});
  }
  const plan::Pieces column_tiles(static_cast<int32_t>(to - from), kTileRows);
  for (int32_t tile = 0; tile < column_tiles.pieces; ++tile) {
    const int32_t t = column_tiles.begin(tile), n = column_tiles.begin(tile + 1) - t;
    float* c = sum_rows + (row + t) * call.width;
    product(true, n, width_vectors,
            {.a = z + t, .a_stride = dz_stride, .b = w.q + r * call.width, .b_stride = call.width, .depth = rows, .init = c,
             .init_stride = call.width, .c = c, .c_stride = call.width});
  }
  if (!columns.axis->bias) return;
  for (int32_t i = 0; i < rows; ++i)
    for (int64_t t = 0; t < to - from; ++t) sum_bias[row + t] += z[i * dz_stride + t];
}

// Takes the gradients ds (rows, ds_stride) of queries [r, r + rows) against the loaded block; zeros where unseen.
inline void relative_backward(const RelativeCall& rc, const Call& call, const RelativeWorkspace& w, RelativeBackwardWorkspace& g,
                              int64_t h, int32_t r, int32_t rows, Seen seen, const float* ds, int64_t ds_stride,
                              const RelativeSums& sums) {
  const PlaceBounds q = bounds_of_places(w, r, rows);
  if (q.empty()) return;
  if (rc.term.is_map()) {
    const PlaceBounds k = bounds_of_stretches(w, seen);
    if (k.empty()) return;
    const Strip x = strip_between(rc.x, k.x_min, k.x_max, q.x_min, q.x_max);
    const Strip y = strip_between(rc.y, k.y_min, k.y_max, q.y_min, q.y_max);
    for (int32_t i = 0; i < rows; ++i) {
      float* dx = g.dx + i * w.stride_x;
      float* dy = g.dy + i * w.stride_y;
      std::fill_n(dx, x.count, 0.0f);
      std::fill_n(dy, y.count, 0.0f);
      const Place& p = w.places[r + i];
      if (!p.there) continue;
      for (int32_t n = 0; n < w.count; ++n) {
        const Stretch s = seen_part(w.stretches[n], seen);
        if (s.count <= 0) continue;
        dy[rc.y.column(s.y, p.y) - y.begin] +=
            collect_stretch(ds + i * ds_stride + s.slot, dx + rc.x.column(s.x, p.x) - x.begin, s.count);
      }
    }
    strip_backward(rc.x, call, w, g.dq, h, x, r, rows, g.dx, w.stride_x, sums.x_rows, sums.x_bias);
    strip_backward(rc.y, call, w, g.dq, h, y, r, rows, g.dy, w.stride_y, sums.y_rows, sums.y_bias);
    return;
  }
  if (rows > 1 && q.x_max - q.x_min > kMostQuerySpread) {
    for (int32_t i = 0; i < rows; ++i) relative_backward(rc, call, w, g, h, r + i, 1, seen, ds + i * ds_stride, ds_stride, sums);
    return;
  }
  for (int32_t n = 0; n < w.count; ++n) {
    const Stretch s = seen_part(w.stretches[n], seen);
    if (s.count <= 0) continue;
    const int64_t first = rc.x.column(s.x, q.x_max), end = rc.x.column(s.x + s.count - 1, q.x_min) + 1;
    if (end <= rc.x.lead || first >= rc.x.lead + rc.x.count()) continue;
    const Strip x(first, end);
    for (int32_t i = 0; i < rows; ++i) {
      float* dx = g.dx + i * w.stride_x;
      std::fill_n(dx, x.count, 0.0f);
      const Place& p = w.places[r + i];
      if (p.there)
        std::copy_n(ds + i * ds_stride + s.slot, s.count, dx + rc.x.column(s.x, p.x) - x.begin);
    }
    strip_backward(rc.x, call, w, g.dq, h, x, r, rows, g.dx, w.stride_x, sums.x_rows, sums.x_bias);
  }
}

// The sums of a head over the chunks, in order, added to the caller's gradients.
inline void deliver_relative(const RelativeTerm& term, const RelativeGradients& to, const Call& call,
                             const RelativePartials& partials, int64_t chunks, Context& ctx) {
  const int64_t heads = call.a.heads, dim = call.a.head_dim, width = partials.width;
  const auto vectors = [&](void* target, int64_t index, int64_t h, float factor, auto&& from) {
    if (!target) return;
    float* row = static_cast<float*>(target) + (index * heads + h) * dim;
    for (int64_t d = 0; d < dim; ++d) {
      float sum = 0;
      for (int64_t c = 0; c < chunks; ++c) sum += from(partials.of(c * heads + h))[d];
      row[d] += factor * sum;
    }
  };
  const auto axis = [&](const RelativeAxis& a, void* rows, void* bias, float* RelativeSums::*sum_rows, float* RelativeSums::*sum_bias) {
    ctx.pool().for_each(heads * a.count, [&](int64_t i) {
      const int64_t h = i / a.count, t = i % a.count, at = a.count - 1 - t;
      vectors(rows, t, h, kLn2, [&](const RelativeSums& s) { return s.*sum_rows + at * width; });
      if (!bias) return;
      float sum = 0;
      for (int64_t c = 0; c < chunks; ++c) sum += (partials.of(c * heads + h).*sum_bias)[at];
      static_cast<float*>(bias)[t * heads + h] += call.scale(h) * sum;
    });
  };
  axis(term.x, to.dx_rows, to.dx_bias, &RelativeSums::x_rows, &RelativeSums::x_bias);
  if (term.is_map()) axis(term.y, to.dy_rows, to.dy_bias, &RelativeSums::y_rows, &RelativeSums::y_bias);
  for (int64_t h = 0; h < heads; ++h) {
    vectors(to.du, 0, h, call.scale(h), [](const RelativeSums& s) { return s.u; });
    vectors(to.dv, 0, h, call.scale(h), [](const RelativeSums& s) { return s.v; });
  }
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
