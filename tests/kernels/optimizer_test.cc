#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

TEST(Optimizer, AdamWMatchesReference) {
  for (int64_t count : {0, 1, 2, 3, 31, 49, 197, 768, 40001})
    for (int64_t step : {1, 2, 1000, 1000000})
      for (double decay : {0.0, 0.05})
        expect_like_reference(fmt::format("adamw {} step {}", count, step), [&](const KernelTable& t, Context& context) {
          Data value = random_data(t.dtype, count, 1), m = random_data(t.dtype, count, 3, 0.1), v(t.dtype, count);
          const Data grad = random_data(t.dtype, count, 2), root = random_data(t.dtype, count, 4, 0.1);
          for (int64_t i = 0; i < count; ++i)
            v.set(i, static_cast<double>(static_cast<float>(root.get(i) * root.get(i))));
          if (count > 2) {  // a parameter that never had a gradient
            m.set(1, 0);
            v.set(1, 0);
          }
          AdamWArgs a;
          a.count = count;
          a.value = value.p();
          a.grad = grad.p();
          a.m = m.p();
          a.v = v.p();
          a.grad_scale = 0.5;
          a.lr = 1e-3;
          a.weight_decay = decay;
          a.step = step;
          t.adamw(a, context);
          // The update's own error is a few roundings of a step of some lr: far below the value's.
          return Outputs{{value, 2 * kEps * value.largest()}, {m, 4 * kEps}, {v, 4 * kEps}};
        });
}

// Ten thousand steps with a constant gradient: value falls by lr each.
TEST(Optimizer, AdamWTakesStepsOfTheLearningRate) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data value(t.dtype, 5, 0), m(t.dtype, 5), v(t.dtype, 5), grad(t.dtype, 5, 3);
    AdamWArgs a;
    a.count = 5;
    a.value = value.p();
    a.grad = grad.p();
    a.m = m.p();
    a.v = v.p();
    a.lr = 1e-4;
    for (a.step = 1; a.step <= 10000; ++a.step) t.adamw(a, context);
    for (int64_t i = 0; i < 5; ++i) EXPECT_NEAR(value.get(i), -1, 2e-3);
  });
}

TEST(Optimizer, SumsSquaresInDouble) {
  for (int64_t count : {0, 1, 2, 3, 31, 49, 197, 768, 16384, 100003})
    for (const KernelTable* t : f32_tables()) {
      SCOPED_TRACE(fmt::format("{} of {}", t->name, count));
      const Data x = random_data(t->dtype, count, 1, 1000);
      long double expected = 0;
      for (int64_t i = 0; i < count; ++i) expected += static_cast<long double>(x.get(i)) * x.get(i);
      std::vector<double> sums;
      for (int threads : {1, 2, 3}) {
        Context context(*t, DType::kF32, threads);
        sums.push_back(t->sum_of_squares(count, x.p(), context));
      }
      EXPECT_NEAR(sums[0], static_cast<double>(expected), 1e-12 * static_cast<double>(expected));
      EXPECT_EQ(sums[0], sums[1]);
      EXPECT_EQ(sums[0], sums[2]);
    }
}

TEST(Optimizer, SumOfSquaresShowsNaNAndDoesNotOverflow) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    for (int64_t at : {0, 17, 98}) {
      Data x(t.dtype, 99, 1e30);
      EXPECT_NEAR(t.sum_of_squares(99, x.p(), context), 99e60, 1e55);
      x.set(at, std::nan(""));
      EXPECT_TRUE(std::isnan(t.sum_of_squares(99, x.p(), context)));
      x.set(at, -std::numeric_limits<double>::infinity());
      EXPECT_TRUE(std::isinf(t.sum_of_squares(99, x.p(), context)));
    }
  });
}

}  // namespace
}  // namespace fovea::test
