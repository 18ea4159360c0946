#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

constexpr Activation kAll[] = {Activation::kNone,      Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                               Activation::kQuickGelu, Activation::kSilu, Activation::kTanh};

TEST(Activation, MatchesReference) {
  for (Activation kind : kAll)
    for (int64_t count : kCountSweep)
      for (bool in_place : {false, true})
        expect_like_reference(fmt::format("activation {} of {}", static_cast<int>(kind), count),
                              [&](const KernelTable& t, Context& context) {
          Data x = random_data(t.dtype, count, 1, 2.5), y(t.dtype, count);
          t.activation(kind, count, x.p(), in_place ? x.p() : y.p(), context);
          return Outputs{{in_place ? x : y, 1.5e-7 * std::max(1.0, x.largest())}};
        });
}

TEST(Activation, BackwardMatchesReference) {
  for (Activation kind : kAll)
    for (int64_t count : kCountSweep)
      for (bool in_place : {false, true})
        expect_like_reference(fmt::format("activation_backward {} of {}", static_cast<int>(kind), count),
                              [&](const KernelTable& t, Context& context) {
          const Data x = random_data(t.dtype, count, 1, 2.5);
          Data dy = random_data(t.dtype, count, 2), dx(t.dtype, count);
          t.activation_backward(kind, count, x.p(), dy.p(), in_place ? dy.p() : dx.p(), context);
          return Outputs{{in_place ? dy : dx, 5e-7 * std::max(1.0, dy.largest())}};
        });
}

TEST(Gate, MatchesReferenceForwardAndBackward) {
  for (Activation kind : kAll)
    for (int64_t rows : {0, 1, 3})
      for (int64_t columns : {1, 7, 16, 33, 9000})
        expect_like_reference(fmt::format("gate {} of {} x {}", static_cast<int>(kind), rows, columns), [&](const KernelTable& t, Context& context) {
          const int64_t count = rows * columns;
          const Data x = random_data(t.dtype, 2 * count, 1, 2.5), dy = random_data(t.dtype, count, 2);
          Data y(t.dtype, count), dx(t.dtype, 2 * count);
          t.gate(kind, rows, columns, x.p(), y.p(), context);
          t.gate_backward(kind, rows, columns, x.p(), dy.p(), dx.p(), context);
          return Outputs{{y, 1.5e-7 * x.largest() * x.largest()}, {dx, 5e-7 * dy.largest() * x.largest()}};
        });
}

// Point by point over the range, with a bound that grows with |x| only.
TEST(Activation, GeluIsAccurateEverywhere) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    const int64_t count = 200001;
    Data x(t.dtype, count), ones(t.dtype, count, 1), y(t.dtype, count), slope(t.dtype, count);
    for (int64_t i = 0; i < count; ++i) x.set(i, -20 + 40.0 * static_cast<double>(i) / (count - 1));
    t.activation(Activation::kGelu, count, x.p(), y.p(), context);
    t.activation_backward(Activation::kGelu, count, x.p(), ones.p(), slope.p(), context);
    double worst = 0, worst_tail = 0, worst_slope = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double v = x.get(i), cdf = 0.5 * std::erfc(-v * std::sqrt(0.5)), exact = v * cdf;
      worst = std::max(worst, std::fabs(y.get(i) - exact) / std::max(1.0, std::fabs(v)));
      if (v < 0 && v > -8) worst_tail = std::max(worst_tail, std::fabs(y.get(i) / exact - 1));
      const double density = std::exp(-0.5 * v * v) / std::sqrt(2 * 3.14159265358979323846);
      worst_slope = std::max(worst_slope, std::fabs(slope.get(i) - cdf - v * density));
    }
    EXPECT_LE(worst, 1e-7);
    EXPECT_LE(worst_tail, 1e-3);
    EXPECT_LE(worst_slope, 3e-7);
  });
}

TEST(Activation, HandlesInfinitiesAndNaN) {
  const double infinity = std::numeric_limits<double>::infinity();
  for_each_f32_table([&](const KernelTable& t, Context& context) {
    for (Activation kind : {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu, Activation::kQuickGelu, Activation::kSilu}) {
      SCOPED_TRACE(static_cast<int>(kind));
      Data x(t.dtype, 5), y(t.dtype, 5), slope(t.dtype, 5), ones(t.dtype, 5, 1);
      const double values[] = {infinity, -infinity, std::nan(""), 1e30, -1e30};
      for (int64_t i = 0; i < 5; ++i) x.set(i, values[i]);
      t.activation(kind, 5, x.p(), y.p(), context);
      t.activation_backward(kind, 5, x.p(), ones.p(), slope.p(), context);
      EXPECT_EQ(y.get(0), infinity);
      EXPECT_NEAR(y.get(1), 0, 1e-17);
      EXPECT_TRUE(std::isnan(y.get(2)));
      EXPECT_EQ(y.get(3), x.get(3));
      EXPECT_NEAR(y.get(4), 0, 1e-17);
      EXPECT_EQ(slope.get(0), 1);
      EXPECT_NEAR(slope.get(1), 0, 1e-17);
      if (kind != Activation::kRelu) {
        EXPECT_TRUE(std::isnan(slope.get(2)));
      }
      EXPECT_EQ(slope.get(3), 1);
      EXPECT_NEAR(slope.get(4), 0, 1e-17);
    }
  });
}

}  // namespace
}  // namespace fovea::test
