// Rows and centroids: similarities, choices, distances.
#pragma once

#include <algorithm>

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

constexpr double kSmallestNorm = 1e-12;

// Row n of a batch element and head as the clusters see it: x^ in `row` (D). Returns max(|x|, 1e-12), 1 without `unit`.
template <class T>
T cluster_row(const ClusterArgs& a, int64_t b, int64_t h, int64_t n, T* row) {
  using std::sqrt;
  const T* x = in<T>(a.x.data) + b * a.x.batch_stride + n * a.x.token_stride + h * a.x.head_stride;
  T norm(1);
  if (a.unit) {
    T squares(0);
    for (int64_t d = 0; d < a.head_dim; ++d) squares += x[d] * x[d];
    norm = value_of(squares) > kSmallestNorm * kSmallestNorm ? sqrt(squares) : T(kSmallestNorm);
  }
  for (int64_t d = 0; d < a.head_dim; ++d) row[d] = x[d] / norm;
  return norm;
}

inline bool is_padding(const ClusterArgs& a, int64_t b, int64_t n) {
  return a.padding != nullptr && a.padding[b * a.padding_stride + n] != 0;
}

// Only the value matters for a choice. NaN counts as the least.
template <class T>
double similarity(const ClusterArgs& a, int64_t h, int64_t c, const T* row) {
  const T* mean = in<T>(a.means) + (h * a.clusters + c) * a.head_dim;
  double sum = 0;
  for (int64_t d = 0; d < a.head_dim; ++d) sum += value_of(row[d]) * value_of(mean[d]);
  return sum == sum ? sum : kMinusInfinity;
}

template <class T>
void nearest_clusters(const ClusterArgs& a, int32_t* nearest, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  T* row = ctx.scratch().take<T>(a.head_dim);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t n = 0; n < a.rows; ++n) {
        int32_t& best = nearest[(b * a.heads + h) * a.rows + n];
        best = -1;
        if (is_padding(a, b, n)) continue;
        cluster_row(a, b, h, n, row);
        double greatest = kMinusInfinity;
        best = 0;
        for (int64_t c = 0; c < a.clusters; ++c) {
          const double s = similarity(a, h, c, row);
          if (s > greatest) {
            greatest = s;
            best = static_cast<int32_t>(c);
          }
        }
      }
}

template <class T>
void top_rows(const ClusterArgs& a, int64_t count, int32_t* chosen, Context& ctx) {
  struct Candidate {
    double similarity;
    int32_t row;
  };
  ArenaScope scope(ctx.scratch());
  T* row = ctx.scratch().take<T>(a.head_dim);
  Candidate* all = ctx.scratch().take<Candidate>(a.rows);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t c = 0; c < a.clusters; ++c) {
        int64_t rows = 0;
        for (int64_t n = 0; n < a.rows; ++n) {
          if (is_padding(a, b, n)) continue;
          cluster_row(a, b, h, n, row);
          all[rows++] = {similarity(a, h, c, row), static_cast<int32_t>(n)};
        }
        std::sort(all, all + rows, [](const Candidate& x, const Candidate& y) {
          return x.similarity > y.similarity || (x.similarity == y.similarity && x.row < y.row);
        });
        int32_t* to = chosen + ((b * a.heads + h) * a.clusters + c) * count;
        const int64_t taken = std::min(rows, count);
        for (int64_t i = 0; i < count; ++i) to[i] = i < taken ? all[i].row : -1;
        std::sort(to, to + taken);
      }
}

template <class T>
void cluster_distance(const ClusterDistanceArgs& args, Context& ctx) {
  const ClusterArgs& a = args.clusters;
  ArenaScope scope(ctx.scratch());
  T* row = ctx.scratch().take<T>(a.head_dim);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t n = 0; n < a.rows; ++n) {
        const int32_t c = args.nearest[(b * a.heads + h) * a.rows + n];
        if (c < 0) continue;
        cluster_row(a, b, h, n, row);
        const int64_t cluster = h * a.clusters + c;
        const T* mean = in<T>(a.means) + cluster * a.head_dim;
        for (int64_t d = 0; d < a.head_dim; ++d) {
          const T difference = row[d] - mean[d];
          *out<T>(args.distance) += difference * difference;
          out<T>(args.totals)[cluster * a.head_dim + d] += row[d];
        }
        out<T>(args.counts)[cluster] += T(1);
      }
}

// With g = 2 scale (x^ - mean): dx += (g - x^ (x^ · g)) / |x| where x^ = x / |x|; g / 1e-12 where |x| is smaller than that.
template <class T>
void cluster_distance_backward(const ClusterDistanceArgs& args, double scale, const HeadsView& dx, Context& ctx) {
  const ClusterArgs& a = args.clusters;
  ArenaScope scope(ctx.scratch());
  T* row = ctx.scratch().take<T>(a.head_dim);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t n = 0; n < a.rows; ++n) {
        const int32_t c = args.nearest[(b * a.heads + h) * a.rows + n];
        if (c < 0) continue;
        const T norm = cluster_row(a, b, h, n, row);
        const T* mean = in<T>(a.means) + (h * a.clusters + c) * a.head_dim;
        T along(0);
        if (a.unit && value_of(norm) > kSmallestNorm)
          for (int64_t d = 0; d < a.head_dim; ++d) along += row[d] * (row[d] - mean[d]);
        T* to = out<T>(dx.data) + b * dx.batch_stride + n * dx.token_stride + h * dx.head_stride;
        for (int64_t d = 0; d < a.head_dim; ++d) to[d] += T(2 * scale) * (row[d] - mean[d] - row[d] * along) / norm;
      }
}

}  // namespace fovea::reference
