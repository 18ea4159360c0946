#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fovea/error.h"

namespace fovea {
namespace {

TEST(RunningMetrics, WeighsBatchesByTheirImages) {
  RunningMetrics m;
  m.add(2.0, 1, 4);
  m.add(5.0, 2, 2);
  EXPECT_DOUBLE_EQ(m.loss(), 3.0);
  EXPECT_DOUBLE_EQ(m.top1(), 0.5);
  EXPECT_EQ(RunningMetrics().loss(), 0);
}

TEST(ConfusionMatrix, GivesScoresPerClass) {
  ConfusionMatrix m(4);
  m.add(0, 0, 8);
  m.add(0, 1, 2);
  m.add(1, 1, 3);
  m.add(1, 0, 1);
  m.add(2, 1, 6);
  EXPECT_EQ(m.images(), 20);
  EXPECT_DOUBLE_EQ(m.top1(), 11.0 / 20);
  const auto c = m.per_class();
  ASSERT_EQ(c.size(), 4u);
  EXPECT_DOUBLE_EQ(c[0].precision, 8.0 / 9);
  EXPECT_DOUBLE_EQ(c[0].recall, 0.8);
  EXPECT_DOUBLE_EQ(c[0].f1, 2 * (8.0 / 9) * 0.8 / (8.0 / 9 + 0.8));
  EXPECT_DOUBLE_EQ(c[1].precision, 3.0 / 11);
  EXPECT_DOUBLE_EQ(c[1].recall, 0.75);
  EXPECT_EQ(c[1].support, 4);
  EXPECT_TRUE(std::isnan(c[2].precision));
  EXPECT_EQ(c[2].recall, 0);
  EXPECT_EQ(c[2].f1, 0);
  EXPECT_TRUE(std::isnan(c[3].f1));
  EXPECT_EQ(c[3].support, 0);
}

TEST(ConfusionMatrix, RefusesUnknownClasses) {
  ConfusionMatrix m(2);
  EXPECT_THROW(m.add(2, 0), InternalError);
  EXPECT_THROW(m.add(0, -1), InternalError);
}

}  // namespace
}  // namespace fovea
