// The optimizer, clipping and the schedule against computations by hand.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/convert.h"
#include "harness/expect.h"
#include "train/schedule.h"

namespace fovea {
namespace {

// Two parameters with decay, one without; values 1, 2, 3 ... and gradients that differ everywhere.
struct Parameters {
  ParamStore store;
  explicit Parameters(DType dtype) {
    store.add("a", Shape{3, 5}, Init::zeros(), Decay::kYes);
    store.add("b", Shape{7}, Init::zeros(), Decay::kNo);
    store.add("c", Shape{2, 2}, Init::zeros(), Decay::kYes);
    store.allocate(dtype, ParamStore::Gradients::kYes);
    double x = 0;
    for (const Param& p : store.params())
      for (int64_t i = 0; i < p.shape.elements(); ++i) {
        x += 1;
        store_scalar(p.value, i, x);
        store_scalar(p.grad, i, std::sin(x));
      }
  }
};

TEST(AdamW, FollowsTheFormulasForThreeSteps) {
  harness::for_each_table([&](const KernelTable& table) {
    Context ctx(table, table.dtype, 2);
    Parameters p(table.dtype);
    const AdamWConfig config{0.8, 0.9, 1e-6, 0.1};
    AdamW optimizer(p.store, config);
    const double rates[] = {0.01, 0.02, 0.005}, scale = 0.5;
    for (const double lr : rates) optimizer.step(lr, scale, ctx);
    EXPECT_EQ(optimizer.steps(), 3);
    double x = 0;
    for (const Param& param : p.store.params()) {
      const double decay = param.decay == Decay::kYes ? 0.1 : 0;
      for (int64_t i = 0; i < param.shape.elements(); ++i) {
        x += 1;
        double value = x, m = 0, v = 0;
        const double g = std::sin(x) * scale;
        for (int t = 1; t <= 3; ++t) {
          const double lr = rates[t - 1];
          value *= 1 - lr * decay;
          m = 0.8 * m + 0.2 * g;
          v = 0.9 * v + 0.1 * g * g;
          value -= lr * (m / (1 - std::pow(0.8, t))) / (std::sqrt(v / (1 - std::pow(0.9, t))) + 1e-6);
        }
        EXPECT_NEAR(load_scalar(param.value, i), value, table.dtype == DType::kF64 ? 1e-13 * x : 1e-5 * x) << param.name << " " << i;
      }
    }
  });
}

TEST(AdamW, LeavesFrozenParametersAlone) {
  harness::for_each_table([&](const KernelTable& table) {
    Context ctx(table, table.dtype, 1);
    Parameters p(table.dtype), all(table.dtype);
    p.store.find("a")->frozen = true;
    AdamW optimizer(p.store, {}), other(all.store, {});
    for (int i = 0; i < 2; ++i) {
      optimizer.step(0.1, 1, ctx);
      other.step(0.1, 1, ctx);
    }
    for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(load_scalar(p.store.find("a")->value, i), static_cast<double>(i + 1));
    for (const char* name : {"b", "c"}) harness::expect_same_bits(p.store.find(name)->value, all.store.find(name)->value, name);
  });
}

TEST(AdamW, DropsPackedWeights) {
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  Parameters p(DType::kF64);
  const double packed = 0;
  p.store.find("a")->packed = &packed;
  AdamW(p.store, {}).step(0.1, 1, ctx);
  EXPECT_EQ(p.store.find("a")->packed, nullptr);
}

TEST(Clipping, ScalesOnlyWhatIsTooLong) {
  EXPECT_EQ(clip_scale(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_scale(4, 1), 1 / (4 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_scale(4, 2), 2 / (4 + 1e-6));
  EXPECT_EQ(clip_scale(4, 0), 1);
  EXPECT_EQ(clip_scale(0, 1), 1);
}

TEST(Clipping, NormIsThatOfAllGradients) {
  harness::for_each_table([&](const KernelTable& table) {
    Context ctx(table, table.dtype, 2);
    Parameters p(table.dtype);
    double sum = 0;
    for (int x = 1; x <= 26; ++x) sum += std::sin(x) * std::sin(x);
    EXPECT_NEAR(gradient_norm(p.store, ctx), std::sqrt(sum), 1e-6);
    store_scalar(p.store.find("c")->grad, 1, NAN);
    EXPECT_TRUE(std::isnan(gradient_norm(p.store, ctx)));
    store_scalar(p.store.find("c")->grad, 1, INFINITY);
    EXPECT_FALSE(std::isfinite(gradient_norm(p.store, ctx)));
  });
}

TEST(Schedule, WarmsUpThenFallsAlongACosine) {
  const Schedule s{2.0, 0.01, 4, 24};
  EXPECT_DOUBLE_EQ(s.lr(0), 0.5);
  EXPECT_DOUBLE_EQ(s.lr(3), 2.0);
  EXPECT_DOUBLE_EQ(s.lr(4), 2.0);
  EXPECT_DOUBLE_EQ(s.lr(14), 2.0 * (0.01 + 0.99 * 0.5));
  EXPECT_NEAR(s.lr(24), 0.02, 1e-15);
  for (int64_t i = 5; i < 24; ++i) EXPECT_LT(s.lr(i), s.lr(i - 1));
  EXPECT_GT(s.lr(23), 0.02);
}

TEST(Schedule, HoldsForTinyRuns) {
  const Schedule one{1.0, 0.01, 0, 1}, warm{1.0, 0.01, 1, 1};
  EXPECT_EQ(one.lr(0), 1.0);
  EXPECT_EQ(warm.lr(0), 1.0);
}

}  // namespace
}  // namespace fovea
