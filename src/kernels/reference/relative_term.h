// The relative term straight from its definition: for a pair, which rows of which tables, and whose query.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/slot.h"

namespace fovea::reference {

// The tables' rows that a pair of slots reads.
struct RelativePair {
  enum class Kind : uint8_t { kNone, kForbidden, kRows } kind = Kind::kNone;
  int64_t query = 0;       // whose q enters the second product: the pair's own but for RelativeTerm::wrapped
  int64_t x = -1, y = -1;  // rows of the tables; -1: not read
};

inline RelativePair relative_pair(const RelativeTerm& r, const Slot& q, const Slot& k) {
  if (r.is_map()) {
    if (q.row < r.first_row || k.source != RowSource::kToken || k.row < r.first_row) return {};
    const int64_t qm = q.row - r.first_row, km = k.row - r.first_row;
    return {RelativePair::Kind::kRows, q.row, r.x.row(qm % r.map_width - km % r.map_width),
            r.y.row(qm / r.map_width - km / r.map_width)};
  }
  if (k.source == RowSource::kPad) return {};
  const int64_t key = k.source == RowSource::kMemory ? k.row - r.memory_rows : k.row;
  const int64_t distance = q.row + r.query_shift - key;
  if (r.wrapped) {
    const RelativeSource from = relative_shift_source(q.row, distance, r.x.count);
    if (from.distance < 0) return {};
    return {RelativePair::Kind::kRows, from.query, from.distance, -1};
  }
  if (!r.x.has(distance)) return {RelativePair::Kind::kForbidden, q.row, -1, -1};
  return {RelativePair::Kind::kRows, q.row, r.x.row(distance), -1};
}

// The term of one head, and its gradients.
template <class T>
class RelativeScores {
 public:
  RelativeScores(const GroupedAttentionArgs& a, int64_t b, int64_t h) : a_(a), r_(*a.relative), b_(b), h_(h) {}

  T u(int64_t d) const { return vector(r_.u, d); }
  T v(int64_t d) const { return vector(r_.v, d); }

  // (q + v) · R + b of a pair that has rows.
  T term(const RelativePair& pair) const {
    T sum(0);
    each_axis(pair, [&](const RelativeAxis& axis, int64_t row) {
      for (int64_t d = 0; d < a_.head_dim; ++d) sum += (query(pair)[d] + v(d)) * row_of_axis(axis, row)[d];
      if (axis.bias) sum += in<T>(axis.bias)[row * a_.heads + h_];
    });
    return sum;
  }

  // With `ds` the gradient of the term: d(q + v) += ds R, dR += ds (q + v), db += ds. dq is the row of the pair's query.
  void add_gradients(const RelativePair& pair, T ds, T* dq, const RelativeGradients& to) const {
    each_axis(pair, [&](const RelativeAxis& axis, int64_t row) {
      const bool is_x = &axis == &r_.x;
      void* drows = is_x ? to.dx_rows : to.dy_rows;
      void* dbias = is_x ? to.dx_bias : to.dy_bias;
      for (int64_t d = 0; d < a_.head_dim; ++d) {
        const T dqv = ds * row_of_axis(axis, row)[d];
        dq[d] += dqv;
        if (to.dv) out<T>(to.dv)[h_ * a_.head_dim + d] += dqv;
        if (drows) out<T>(drows)[(row * a_.heads + h_) * a_.head_dim + d] += ds * (query(pair)[d] + v(d));
      }
      if (dbias) out<T>(dbias)[row * a_.heads + h_] += ds;
    });
  }

 private:
  T vector(const void* p, int64_t d) const { return p ? in<T>(p)[h_ * a_.head_dim + d] : T(0); }
  const T* query(const RelativePair& pair) const { return row_of<T>(a_.q, b_, pair.query, h_); }
  const T* row_of_axis(const RelativeAxis& axis, int64_t row) const {
    return in<T>(axis.rows) + (row * a_.heads + h_) * a_.head_dim;
  }
  template <class F>
  void each_axis(const RelativePair& pair, F&& f) const {
    if (pair.x >= 0) f(r_.x, pair.x);
    if (pair.y >= 0) f(r_.y, pair.y);
  }

  const GroupedAttentionArgs& a_;
  const RelativeTerm& r_;
  int64_t b_, h_;
};

}  // namespace fovea::reference
