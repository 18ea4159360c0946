#include "harness/compare.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "harness/expect.h"

namespace fovea::harness {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Values = std::vector<double>;

std::string verdict(const Values& actual, const Values& expected, const Tolerance& tolerance = Tolerance::relative(1e-3)) {
  return compare(view(actual), view(expected), tolerance);
}

::testing::AssertionResult says(const std::string& verdict, const std::string& part) {
  if (verdict.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "the verdict is '" << verdict << "', which does not say '" << part << "'";
}

TEST(Compare, AcceptsEqualAndNearlyEqual) {
  EXPECT_EQ(verdict({1, -2, 3}, {1, -2, 3}), "");
  EXPECT_EQ(verdict({1.0029, -2, 3}, {1, -2, 3}), "");  // 0.0029 <= 1e-3 * 3
  EXPECT_EQ(verdict({0, 1e-12}, {0, 1e-12}, Tolerance::relative(0)), "");
}

TEST(Compare, RejectsADifferenceBeyondTheBound) {
  EXPECT_TRUE(says(verdict({1.0031, -2, 3}, {1, -2, 3}), "1 of 3 elements differ too much; worst at [0]"));
  EXPECT_TRUE(says(verdict({1, -2, 3.5}, {1, -2, 3}, Tolerance::absolute(0.4)), "worst at [2]"));
  EXPECT_EQ(verdict({1, -2, 3.5}, {1, -2, 3}, Tolerance::absolute(0.6)), "");
}

TEST(Compare, MeasuresAgainstTheLargestExpectedMagnitude) {
  // The actual side must not widen its own tolerance.
  EXPECT_TRUE(says(verdict({1000}, {1}, Tolerance::relative(1.5)), "differ too much"));
}

TEST(Compare, ElementwiseBoundsHoldForEachElement) {
  EXPECT_EQ(verdict({1.1, 2.0}, {1, 2}, Tolerance::elementwise({0.2, 0})), "");
  EXPECT_TRUE(says(verdict({1.0, 2.1}, {1, 2}, Tolerance::elementwise({0.2, 0.05})), "worst at [1]"));
  EXPECT_TRUE(says(verdict({1, 2}, {1, 2}, Tolerance::elementwise({0.2})), "1 elementwise bounds for 2 elements"));
  EXPECT_TRUE(says(verdict({1, 2}, {1, 2}, Tolerance::elementwise({0.2, kNan})), "is no bound"));
}

TEST(Compare, RejectsNanOnEitherSide) {
  EXPECT_TRUE(says(verdict({1, kNan}, {1, 2}), "NaN at [1]"));
  EXPECT_TRUE(says(verdict({1, 2}, {1, kNan}), "the expectation is NaN at [1]"));
  EXPECT_TRUE(says(verdict({kNan}, {kNan}), "NaN"));
  EXPECT_TRUE(says(verdict({1, kNan}, {1, 2}, Tolerance::elementwise({kInfinity, kInfinity})), "NaN"));
  EXPECT_TRUE(says(compare_zero(view(Values{0, kNan}), 1), "[1]"));
}

TEST(Compare, RejectsInfinitiesUnlessBothAgree) {
  EXPECT_TRUE(says(verdict({kInfinity, 1}, {1, 1}, Tolerance::absolute(kInfinity)), "inf at [0]"));
  EXPECT_TRUE(says(verdict({1, 1}, {-kInfinity, 1}, Tolerance::absolute(kInfinity)), "expected -inf"));
  EXPECT_TRUE(says(verdict({kInfinity, 1}, {-kInfinity, 1}), "expected -inf"));
  EXPECT_EQ(verdict({-kInfinity, 1}, {-kInfinity, 1}), "");
  EXPECT_TRUE(says(compare_zero(view(Values{kInfinity}), 1), "inf"));
}

TEST(Compare, RejectsDifferentSizes) {
  EXPECT_TRUE(says(verdict({1, 2}, {1}), "2 elements of shape [2] are compared with 1"));
  EXPECT_TRUE(says(compare_bits(view(Values{1, 2}), view(Values{1})), "are compared with"));
}

TEST(Compare, RejectsNothing) {
  EXPECT_TRUE(says(verdict({}, {}), "nothing to compare"));
  EXPECT_TRUE(says(compare_zero(view(Values{}), 1), "nothing to compare"));
  EXPECT_TRUE(says(compare_bits(view(Values{}), view(Values{})), "nothing to compare"));
  EXPECT_TRUE(says(compare(ConstTensor(nullptr, Shape{2}, DType::kF64), view(Values{1, 2}), Tolerance::absolute(1)),
                   "without data"));
}

TEST(Compare, RejectsSharedMemory) {
  const Values v = {1, 2, 3};
  EXPECT_TRUE(says(compare(view(v), view(v), Tolerance::absolute(1)), "share memory"));
  const ConstTensor head(v.data(), Shape{2}, DType::kF64), tail(v.data() + 1, Shape{2}, DType::kF64);
  EXPECT_TRUE(says(compare(head, tail, Tolerance::absolute(10)), "share memory"));
  EXPECT_TRUE(says(compare(tail, head, Tolerance::absolute(10)), "share memory"));
  EXPECT_TRUE(says(compare_bits(view(v), view(v)), "share memory"));
  // Neighbours share nothing.
  EXPECT_EQ(compare(ConstTensor(v.data(), Shape{1}, DType::kF64), ConstTensor(v.data() + 1, Shape{1}, DType::kF64),
                    Tolerance::absolute(1)),
            "");
}

TEST(Compare, RejectsUndeclaredZeros) {
  EXPECT_TRUE(says(verdict({0, 0}, {0, 0}), "expect_zero"));
  EXPECT_TRUE(says(verdict({0, 0}, {0, -0.0}), "expect_zero"));
  EXPECT_EQ(compare_zero(view(Values{0, 1e-9}), 1e-8), "");
  EXPECT_TRUE(says(compare_zero(view(Values{0, 1e-7}), 1e-8), "[1], expected 0"));
}

TEST(Compare, RejectsAToleranceThatIsNone) {
  EXPECT_TRUE(says(verdict({1}, {1}, Tolerance::absolute(-1)), "is no bound"));
  EXPECT_TRUE(says(verdict({1}, {1}, Tolerance::relative(kNan)), "is no bound"));
  EXPECT_TRUE(says(compare_zero(view(Values{0}), kNan), "is no bound"));
}

TEST(Compare, ConvertsElementTypes) {
  const std::vector<float> single = {0.5f, 2};
  EXPECT_EQ(compare(view(single), view(Values{0.5, 2}), Tolerance::absolute(0)), "");
  EXPECT_TRUE(says(compare_bits(view(single), view(Values{0.5, 2})), "bit by bit"));
}

TEST(Compare, BitsTellMinusZeroFromZero) {
  EXPECT_TRUE(says(compare_bits(view(Values{1, 0.0}), view(Values{1, -0.0})), "different bits at [1]"));
  EXPECT_EQ(compare_bits(view(Values{1, kNan}), view(Values{1, kNan})), "");
}

TEST(Compare, NamesThePositionInTheShape) {
  const Values a = {0, 1, 2, 3, 4, 5}, b = {0, 1, 2, 3, 9, 5};
  EXPECT_TRUE(says(compare(view(a).reshaped(Shape{2, 3}), view(b).reshaped(Shape{2, 3}), Tolerance::absolute(1)),
                   "worst at [1, 1]"));
}

TEST(Compare, RelativeErrorIsNanWhereAnythingIs) {
  EXPECT_TRUE(std::isnan(relative_error(view(Values{kNan, 1}), view(Values{1, 1}))));
  EXPECT_TRUE(std::isnan(relative_error(view(Values{1, 1}), view(Values{1, kNan}))));
  EXPECT_NEAR(relative_error(view(Values{1, 2.5}), view(Values{1, 2})), 0.25, 1e-6);
}

TEST(Expect, FailsTheTestWithTheVerdict) {
  EXPECT_NONFATAL_FAILURE(expect_close(view(Values{1}), view(Values{2}), Tolerance::absolute(0.1), "the answer"),
                          "the answer: 1 of 1 elements differ");
  EXPECT_NONFATAL_FAILURE(expect_zero(view(Values{1}), 0.1, "the rest"), "the rest: 1 at [0]");
  EXPECT_NONFATAL_FAILURE(expect_same_bits(view(Values{1}), view(Values{2}), "a copy"), "a copy: different bits");
}

TEST(HostTensor, RandomNumbersAreTheSameInEveryType) {
  const Shape shape{3, 5};
  const HostTensor single = random_tensor(shape, Rng(4), DType::kF32), wide = random_tensor(shape, Rng(4), DType::kF64),
                   dual = random_tensor(shape, Rng(4), DType::kDual);
  EXPECT_EQ(compare(single, wide, Tolerance::absolute(0)), "");
  EXPECT_EQ(compare(dual, wide, Tolerance::absolute(0)), "");
  EXPECT_NE(compare(random_tensor(shape, Rng(5), DType::kF64), wide, Tolerance::relative(1e-3)), "");
}

}  // namespace
}  // namespace fovea::harness
