// What cosine attention needs beside the grouped softmax: rows of length one, temperatures, a bounded bias (Swin V2, Liu et al.
// 2021, 2111.09883).
#pragma once

#include <type_traits>

#include "core/check.h"
#include "core/convert.h"
#include "kernels/reference/layer_norm.h"

namespace fovea::reference {

template <class T>
void unit_rows(const UnitRowsArgs& a, Context&) {
  using std::sqrt;
  check(!a.bf16 || !std::is_same_v<T, Dual>, "unit rows in bfloat16 have no derivative");
  for (int64_t r = 0; r < a.x_rows.rows(); ++r) {
    const int64_t from = row_offset(a.x_rows, r), to = row_offset(a.y_rows, r);
    const auto x = [&](int64_t c) { return a.bf16 ? T(static_cast<double>(from_bf16(in<uint16_t>(a.x)[from + c]))) : in<T>(a.x)[from + c]; };
    T square(0);
    for (int64_t c = 0; c < a.channels; ++c) square += x(c) * x(c);
    // Compared before the root, whose derivative at zero is infinite.
    const T norm = square > T(a.epsilon * a.epsilon) ? sqrt(square) : T(a.epsilon);
    if (a.norm) out<T>(a.norm)[r] = norm;
    for (int64_t c = 0; c < a.channels; ++c) {
      const T y = x(c) / norm;
      if (a.bf16) out<uint16_t>(a.y)[to + c] = to_bf16(static_cast<float>(value_of(y)));
      if (!a.bf16) out<T>(a.y)[to + c] = y;
    }
  }
}

// With y = x / n: dx = (dy - y <y, dy>) / n where n = |x|, dx = dy / n where n = epsilon, a constant.
template <class T>
void unit_rows_backward(const UnitRowsBackwardArgs& a, Context&) {
  for (int64_t r = 0; r < a.y_rows.rows(); ++r) {
    const T* y = in<T>(a.y) + row_offset(a.y_rows, r);
    const T* dy = in<T>(a.dy) + row_offset(a.dy_rows, r);
    T* dx = out<T>(a.dx) + row_offset(a.dx_rows, r);
    const T norm = in<T>(a.norm)[r];
    T dot(0);
    if (norm > T(a.epsilon))
      for (int64_t c = 0; c < a.channels; ++c) dot += y[c] * dy[c];
    for (int64_t c = 0; c < a.channels; ++c) dx[c] = (a.accumulate_dx ? dx[c] : T(0)) + (dy[c] - y[c] * dot) / norm;
  }
}

template <class T>
void clamped_exp(int64_t count, double limit, const void* x, void* y, Context&) {
  using std::exp;
  for (int64_t i = 0; i < count; ++i) out<T>(y)[i] = in<T>(x)[i] > T(limit) ? exp(T(limit)) : exp(in<T>(x)[i]);
}

// dx += dy · y where x <= limit, nothing above.
template <class T>
void clamped_exp_backward(int64_t count, double limit, const void* x, const void* y, const void* dy, void* dx, Context&) {
  for (int64_t i = 0; i < count; ++i)
    if (in<T>(x)[i] <= T(limit)) out<T>(dx)[i] += in<T>(dy)[i] * in<T>(y)[i];
}

template <class T>
void scaled_sigmoid(int64_t count, double scale, const void* x, void* y, Context&) {
  using std::exp;
  for (int64_t i = 0; i < count; ++i) out<T>(y)[i] = T(scale) / (T(1) + exp(-in<T>(x)[i]));
}

// dx = dy · scale · s (1 - s) with s the sigmoid; as an even function of x it is e / (1 + e)² with e = exp(-|x|).
template <class T>
void scaled_sigmoid_backward(int64_t count, double scale, const void* x, const void* dy, void* dx, Context&) {
  using std::exp;
  using std::fabs;
  for (int64_t i = 0; i < count; ++i) {
    const T e = exp(-fabs(in<T>(x)[i]));
    out<T>(dx)[i] = in<T>(dy)[i] * T(scale) * e / ((T(1) + e) * (T(1) + e));
  }
}

}  // namespace fovea::reference
