#include "kernels/cpu/gelu_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fovea {
namespace {

double exact(Activation activation, double x) {
  if (activation == Activation::kGelu) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// As generated code evaluates it.
float by_table(const GeluTable& t, int degree, float x) {
  const float a = std::min(std::fabs(x), t.bound);
  const float whole = std::fma(a, t.inverse_width, t.to_integer) - t.to_integer;
  const float f = degree == 3 ? a : std::fma(a, t.inverse_width, -whole);
  float r = t.coefficients[degree][static_cast<int>(whole)];
  for (int n = degree - 1; n >= 0; --n) r = std::fma(r, f, t.coefficients[n][static_cast<int>(whole)]);
  return std::max(x, 0.0f) - r;
}

TEST(GeluTable, IsAsExactAsItSays) {
  for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh})
    for (const int degree : {3, 5}) {
      const GeluTable& t = gelu_table(activation, degree);
      for (float x = -20; x < 20; x += 1.0f / 4096) {
        const double bound = (degree == 3 ? 2e-5 : 8e-8) + 0x1p-24 * std::abs(static_cast<double>(x));
        ASSERT_NEAR(by_table(t, degree, x), exact(activation, x), bound) << x << " degree " << degree;
      }
    }
}

}  // namespace
}  // namespace fovea
