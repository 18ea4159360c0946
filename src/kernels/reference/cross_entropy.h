// Cross-entropy of softmax(logits) with label smoothing (Szegedy et al. 2016, 1512.00567, section 7) or soft targets.
#pragma once

#include "core/check.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

// Target c of a row: (1 - smoothing) · target + smoothing / classes.
template <class T>
T smoothed_target(const CrossEntropyArgs& a, int64_t row, int64_t c) {
  T target;
  if (a.soft_targets) {
    target = in<T>(a.soft_targets)[row * a.classes + c];
  } else {
    check(a.labels[row] >= 0 && a.labels[row] < a.classes, "label {} of row {} is none of {} classes", a.labels[row], row,
          a.classes);
    target = T(a.labels[row] == c ? 1.0 : 0.0);
  }
  return T(1 - a.smoothing) * target + T(a.smoothing / static_cast<double>(a.classes));
}

template <class T>
T log_sum_exp(const T* x, int64_t count) {
  using std::exp;
  using std::log;
  double max = kMinusInfinity;
  for (int64_t c = 0; c < count; ++c) max = value_of(x[c]) > max ? value_of(x[c]) : max;
  T sum(0);
  for (int64_t c = 0; c < count; ++c) sum += exp(x[c] - T(max));
  return T(max) + log(sum);
}

template <class T>
void cross_entropy(const CrossEntropyArgs& a, Context&) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* logits = in<T>(a.logits) + r * a.classes;
    const T lse = log_sum_exp(logits, a.classes);
    T loss(0);
    for (int64_t c = 0; c < a.classes; ++c) loss += smoothed_target<T>(a, r, c) * (lse - logits[c]);
    out<T>(a.loss)[r] = loss;
  }
}

// dlogits = dloss · (softmax(logits) · sum(t) - t), t the smoothed targets.
template <class T>
void cross_entropy_backward(const CrossEntropyArgs& a, Context&) {
  using std::exp;
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* logits = in<T>(a.logits) + r * a.classes;
    const T lse = log_sum_exp(logits, a.classes);
    T total(0);
    for (int64_t c = 0; c < a.classes; ++c) total += smoothed_target<T>(a, r, c);
    for (int64_t c = 0; c < a.classes; ++c)
      out<T>(a.dlogits)[r * a.classes + c] = T(a.dloss) * (exp(logits[c] - lse) * total - smoothed_target<T>(a, r, c));
  }
}

}  // namespace fovea::reference
