// Pointwise activations and their derivatives.
#pragma once

#include <numbers>

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

inline constexpr double kSqrtTwoOverPi = 0.79788456080286535588;  // of the tanh form, Hendrycks and Gimpel 2016 (1606.08415)
inline constexpr double kGeluCubic = 0.044715;
inline constexpr double kQuickGeluSlope = 1.702;

// s(x) = 1 / (1 + exp(-x)), and the derivative of x s(x).
template <class T>
T sigmoid(T x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}
template <class T>
T silu_derivative(T x) {
  const T s = sigmoid(x);
  return s + x * s * (T(1) - s);
}

template <class T>
T activate(Activation kind, T x) {
  using std::erf;
  using std::tanh;
  switch (kind) {
    case Activation::kNone: return x;
    case Activation::kGelu: return T(0.5) * x * (T(1) + erf(x / T(std::numbers::sqrt2)));
    case Activation::kGeluTanh:
      return T(0.5) * x * (T(1) + tanh(T(kSqrtTwoOverPi) * (x + T(kGeluCubic) * x * x * x)));
    case Activation::kRelu: return x < T(0) ? T(0) : x;
    case Activation::kQuickGelu: return x * sigmoid(T(kQuickGeluSlope) * x);
    case Activation::kSilu: return x * sigmoid(x);
    case Activation::kTanh: return tanh(x);
  }
  return x;
}

template <class T>
T activation_derivative(Activation kind, T x) {
  using std::erf;
  using std::exp;
  using std::tanh;
  switch (kind) {
    case Activation::kNone: return T(1);
    case Activation::kGelu: {
      const T density = exp(T(-0.5) * x * x) * T(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
      return T(0.5) * (T(1) + erf(x / T(std::numbers::sqrt2))) + x * density;
    }
    case Activation::kGeluTanh: {
      const T t = tanh(T(kSqrtTwoOverPi) * (x + T(kGeluCubic) * x * x * x));
      const T inner = T(kSqrtTwoOverPi) * (T(1) + T(3 * kGeluCubic) * x * x);
      return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * inner;
    }
    case Activation::kRelu: return x > T(0) ? T(1) : T(0);
    case Activation::kQuickGelu: return silu_derivative(T(kQuickGeluSlope) * x);
    case Activation::kSilu: return silu_derivative(x);
    case Activation::kTanh: return T(1) - tanh(x) * tanh(x);
  }
  return T(1);
}

template <class T>
void activation(Activation kind, int64_t count, const void* x, void* y, Context&) {
  for (int64_t i = 0; i < count; ++i) out<T>(y)[i] = activate(kind, in<T>(x)[i]);
}

// dx = dy · act'(x)
template <class T>
void activation_backward(Activation kind, int64_t count, const void* x, const void* dy, void* dx, Context&) {
  for (int64_t i = 0; i < count; ++i) out<T>(dx)[i] = in<T>(dy)[i] * activation_derivative(kind, in<T>(x)[i]);
}

template <class T>
void gate(Activation kind, int64_t rows, int64_t columns, const void* x, void* y, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const T* row = in<T>(x) + 2 * r * columns;
      out<T>(y)[r * columns + c] = activate(kind, row[c]) * row[columns + c];
    }
}

template <class T>
void gate_backward(Activation kind, int64_t rows, int64_t columns, const void* x, const void* dy, void* dx, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const T* row = in<T>(x) + 2 * r * columns;
      T* drow = out<T>(dx) + 2 * r * columns;
      const T d = in<T>(dy)[r * columns + c];
      drow[c] = d * row[columns + c] * activation_derivative(kind, row[c]);
      drow[columns + c] = d * activate(kind, row[c]);
    }
}

}  // namespace fovea::reference
