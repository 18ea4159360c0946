// Element by element: sums, dropout, the optimizer.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

template <class T>
void add(int64_t count, const void* x, const void* y, void* z, Context&) {
  for (int64_t i = 0; i < count; ++i) out<T>(z)[i] = in<T>(x)[i] + in<T>(y)[i];
}

template <class T>
void scale_add(int64_t count, double alpha, const void* x, void* y, Context&) {
  for (int64_t i = 0; i < count; ++i) out<T>(y)[i] += T(alpha) * in<T>(x)[i];
}

template <class T>
void dropout(const DropoutArgs& a, Context&) {
  for (int64_t i = 0; i < a.count; ++i) {
    const bool dropped = a.rng.uniform(static_cast<uint64_t>(i)) < a.probability;
    out<T>(a.y)[i] = dropped ? T(0) : in<T>(a.x)[i] / T(1 - a.probability);
  }
}

// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²;
// value -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay · value)
template <class T>
void adamw(const AdamWArgs& a, Context&) {
  using std::sqrt;
  const double correction1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - std::pow(a.beta2, static_cast<double>(a.step));
  for (int64_t i = 0; i < a.count; ++i) {
    const T g = in<T>(a.grad)[i] * T(a.grad_scale);
    T& m = out<T>(a.m)[i];
    T& v = out<T>(a.v)[i];
    T& value = out<T>(a.value)[i];
    m = T(a.beta1) * m + T(1 - a.beta1) * g;
    v = T(a.beta2) * v + T(1 - a.beta2) * g * g;
    value -= T(a.lr) * (m / T(correction1) / (sqrt(v / T(correction2)) + T(a.epsilon)) + T(a.weight_decay) * value);
  }
}

template <class T>
double sum_of_squares(int64_t count, const void* x, Context&) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += value_of(in<T>(x)[i]) * value_of(in<T>(x)[i]);
  return sum;
}

}  // namespace fovea::reference
