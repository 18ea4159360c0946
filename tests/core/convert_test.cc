#include "core/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace fovea {
namespace {

// The value of a half-precision pattern from its definition (IEEE 754-2019, 3.4).
double value_of_f16(uint16_t h) {
  const int sign = (h & 0x8000) != 0 ? -1 : 1, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

double value_of_bf16(uint16_t h) {
  const int sign = (h & 0x8000) != 0 ? -1 : 1, exponent = (h >> 7) & 255, mantissa = h & 127;
  if (exponent == 255) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, -133);
  return sign * std::ldexp(128 + mantissa, exponent - 134);
}

class SixteenBits : public ::testing::TestWithParam<DType> {
 protected:
  double value(uint16_t h) const { return GetParam() == DType::kF16 ? value_of_f16(h) : value_of_bf16(h); }
  double load(uint16_t h) const { return load_scalar(ConstTensor(&h, Shape{1}, GetParam()), 0); }
  uint16_t store(double v) const {
    uint16_t h = 0xdead;
    store_scalar(Tensor(&h, Shape{1}, GetParam()), 0, v);
    return h;
  }
};

TEST_P(SixteenBits, EveryPatternLoadsAndRoundTrips) {
  for (uint32_t u = 0; u < 0x10000; ++u) {
    const auto h = static_cast<uint16_t>(u);
    const double expected = value(h), loaded = load(h);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(loaded)) << u;
      ASSERT_TRUE(std::isnan(load(store(loaded)))) << u;
      continue;
    }
    ASSERT_EQ(loaded, expected) << u;
    ASSERT_EQ(std::signbit(loaded), std::signbit(expected)) << u;
    ASSERT_EQ(store(expected), h) << u;
  }
}

TEST_P(SixteenBits, RoundsToNearestEven) {
  // Between every two neighbours: the midpoint goes to the even one, everything else to the nearer.
  const auto infinity = static_cast<uint16_t>(GetParam() == DType::kF16 ? 0x7c00 : 0x7f80);
  for (uint16_t h = 0; h + 1 < infinity; ++h) {
    const double low = value(h), high = value(static_cast<uint16_t>(h + 1)), middle = (low + high) / 2;
    const auto even = static_cast<uint16_t>(h + (h & 1));
    ASSERT_EQ(store(middle), even) << h;
    ASSERT_EQ(store(-middle), even | 0x8000) << h;
    const float below = std::nextafterf(static_cast<float>(middle), 0), above = std::nextafterf(static_cast<float>(middle), HUGE_VALF);
    ASSERT_EQ(store(static_cast<double>(below)), h) << h;
    ASSERT_EQ(store(static_cast<double>(above)), h + 1) << h;
  }
}

TEST_P(SixteenBits, OverflowsToInfinity) {
  const auto infinity = static_cast<uint16_t>(GetParam() == DType::kF16 ? 0x7c00 : 0x7f80);
  EXPECT_EQ(store(static_cast<double>(std::numeric_limits<float>::max())), infinity);
  EXPECT_EQ(store(-HUGE_VAL), infinity | 0x8000);
  EXPECT_EQ(store(1e300), infinity);
  if (GetParam() == DType::kF16) {
    EXPECT_EQ(store(65519.99), 0x7bff);
    EXPECT_EQ(store(65520), infinity);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SixteenBits, ::testing::Values(DType::kF16, DType::kBF16),
                         [](const auto& type) { return std::string(name_of(type.param)); });

TEST(Convert, BetweenAllNumberTypes) {
  const std::vector<double> numbers = {0, 1, 2, 3, 100, 127};
  std::vector<unsigned char> memory(numbers.size() * 16), other = memory;
  const auto types = {DType::kF32, DType::kF64, DType::kDual, DType::kBF16, DType::kF16,
                      DType::kI32, DType::kI64, DType::kU8,   DType::kI8};
  const ConstTensor source(numbers.data(), Shape{6}, DType::kF64);
  for (const DType from : types)
    for (const DType to : types) {
      const Tensor a(memory.data(), Shape{6}, from), b(other.data(), Shape{6}, to);
      convert(source, a);
      convert(a, b);
      for (size_t i = 0; i < numbers.size(); ++i)
        ASSERT_EQ(load_scalar(b, static_cast<int64_t>(i)), numbers[i]) << name_of(from) << " to " << name_of(to);
    }
}

TEST(Convert, KeepsDerivativesBetweenDuals) {
  const std::vector<Dual> from = {{1, 2}, {3, 4}};
  std::vector<Dual> to(2);
  convert(ConstTensor(from.data(), Shape{2}, DType::kDual), Tensor(to.data(), Shape{2}, DType::kDual));
  EXPECT_EQ(to[1].v, 3);
  EXPECT_EQ(to[1].d, 4);
  to[0] = {7, 9};
  store_scalar(Tensor(to.data(), Shape{2}, DType::kDual), 0, 5);
  EXPECT_EQ(to[0].v, 5);
  EXPECT_EQ(to[0].d, 0) << "a stored number is a constant";
}

TEST(Convert, RefusesDifferentSizes) {
  double a[2] = {1, 2};
  float b[3] = {0, 0, 0};
  EXPECT_THROW(convert(ConstTensor(a, Shape{2}, DType::kF64), Tensor(b, Shape{3}, DType::kF32)), InternalError);
}

}  // namespace
}  // namespace fovea
