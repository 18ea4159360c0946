#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/dual.h"

namespace fovea {
namespace {

TEST(Shape, CountsAndPrints) {
  const Shape s{2, 3, 4};
  EXPECT_EQ(s.elements(), 24);
  EXPECT_EQ(s.rows(), 6);
  EXPECT_EQ(s.last(), 4);
  EXPECT_EQ(s[-1], 4);
  EXPECT_EQ(s.str(), "[2, 3, 4]");
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ((Shape{0, 5}).elements(), 0);
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
}

TEST(Shape, RefusesWhatIsNone) {
  EXPECT_THROW((Shape{-1, 2}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), Error);
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}).elements(), Error);
}

TEST(Tensor, TypedAccessAndViews) {
  float data[6] = {0, 1, 2, 3, 4, 5};
  const Tensor t(data, Shape{3, 2}, DType::kF32);
  EXPECT_THROW(t.as<double>(), InternalError);
  EXPECT_EQ(t.slice(1, 2).as<float>()[0], 2);
  EXPECT_EQ(t.slice(1, 2).shape, (Shape{2, 2}));
  EXPECT_THROW(t.slice(2, 2), InternalError);
  EXPECT_THROW(t.reshaped(Shape{4}), InternalError);
  EXPECT_EQ(t.reshaped(Shape{6}).as<float>()[5], 5);
  EXPECT_THROW(require_shape(t, Shape{2, 3}, "x of the test"), Error);
}

// Every function's derivative against a central difference.
TEST(Dual, DerivativesOfTheFunctions) {
  const double x = 0.7, e = 1e-6;
  const auto check_one = [&](const char* name, auto f) {
    const double expected = (f(Dual(x + e)).v - f(Dual(x - e)).v) / (2 * e);
    EXPECT_NEAR(f(Dual(x, 1)).d, expected, 1e-8) << name;
    EXPECT_NEAR(f(Dual(x, -2)).d, -2 * expected, 1e-8) << name;
  };
  check_one("exp", [](Dual a) { return exp(a); });
  check_one("log", [](Dual a) { return log(a); });
  check_one("sqrt", [](Dual a) { return sqrt(a); });
  check_one("erf", [](Dual a) { return erf(a); });
  check_one("tanh", [](Dual a) { return tanh(a); });
  check_one("sin", [](Dual a) { return sin(a); });
  check_one("cos", [](Dual a) { return cos(a); });
  check_one("pow", [](Dual a) { return pow(a, 2.5); });
  check_one("fabs", [](Dual a) { return fabs(-a); });
  check_one("quotient", [](Dual a) { return (a + Dual(1)) / (a * a); });
  check_one("difference", [](Dual a) { return Dual(2) - a * a; });
}

}  // namespace
}  // namespace fovea
