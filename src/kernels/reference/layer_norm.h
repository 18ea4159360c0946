// Layer normalisation (Ba et al. 2016, 1607.06450), population variance.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

inline int64_t row_offset(const RowLayout& rows, int64_t row) {
  return row / rows.inner * rows.outer_stride + row % rows.inner * rows.inner_stride;
}

template <class T>
void layer_norm(const LayerNormArgs& a, Context&) {
  using std::sqrt;
  const T count(static_cast<double>(a.channels));
  for (int64_t r = 0; r < a.x_rows.rows(); ++r) {
    const T* x = in<T>(a.x) + row_offset(a.x_rows, r);
    T mean(0), variance(0);
    for (int64_t c = 0; c < a.channels; ++c) mean += x[c];
    mean /= count;
    for (int64_t c = 0; c < a.channels; ++c) variance += (x[c] - mean) * (x[c] - mean);
    variance /= count;
    const T rstd = T(1) / sqrt(variance + T(a.epsilon));
    if (a.mean) out<T>(a.mean)[r] = mean;
    if (a.rstd) out<T>(a.rstd)[r] = rstd;
    if (!a.y) continue;
    T* y = out<T>(a.y) + row_offset(a.y_rows, r);
    for (int64_t c = 0; c < a.channels; ++c) {
      const T gamma = a.gamma ? in<T>(a.gamma)[c] : T(1);
      const T beta = a.beta ? in<T>(a.beta)[c] : T(0);
      y[c] = (x[c] - mean) * rstd * gamma + beta;
    }
  }
}

// With n = (x - mean) · rstd and g = dy · gamma:
// dx = rstd · (g - mean(g) - n · mean(g · n)), dgamma += sum dy · n, dbeta += sum dy.
template <class T>
void layer_norm_backward(const LayerNormBackwardArgs& a, Context&) {
  const T count(static_cast<double>(a.channels));
  for (int64_t r = 0; r < a.x_rows.rows(); ++r) {
    const T* x = in<T>(a.x) + row_offset(a.x_rows, r);
    const T* dy = in<T>(a.dy) + row_offset(a.dy_rows, r);
    T* dx = out<T>(a.dx) + row_offset(a.dx_rows, r);
    const T mean = in<T>(a.mean)[r], rstd = in<T>(a.rstd)[r];
    T mean_g(0), mean_gn(0);
    for (int64_t c = 0; c < a.channels; ++c) {
      const T n = (x[c] - mean) * rstd;
      const T g = a.gamma ? dy[c] * in<T>(a.gamma)[c] : dy[c];
      mean_g += g;
      mean_gn += g * n;
      if (a.dgamma) out<T>(a.dgamma)[c] += dy[c] * n;
      if (a.dbeta) out<T>(a.dbeta)[c] += dy[c];
    }
    mean_g /= count;
    mean_gn /= count;
    for (int64_t c = 0; c < a.channels; ++c) {
      const T n = (x[c] - mean) * rstd;
      const T g = a.gamma ? dy[c] * in<T>(a.gamma)[c] : dy[c];
      const T d = rstd * (g - mean_g - n * mean_gn);
      dx[c] = a.accumulate_dx ? dx[c] + d : d;
    }
  }
}

}  // namespace fovea::reference
