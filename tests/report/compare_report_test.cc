#include "report/compare_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fovea::report {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Statistics, MeanDeviationAndQuantiles) {
  EXPECT_DOUBLE_EQ(mean({1, 2, 6}), 3);
  EXPECT_NEAR(standard_deviation({1, 2, 6}), std::sqrt(7.0), 1e-12);
  EXPECT_TRUE(std::isnan(mean({})));
  EXPECT_TRUE(std::isnan(standard_deviation({1})));
  EXPECT_NEAR(t_quantile_95(2), 4.303, 1e-3);
  EXPECT_NEAR(t_quantile_95(20), 2.086, 1e-3);
  EXPECT_NEAR(t_quantile_95(21), 2.080, 2e-3);
  EXPECT_NEAR(t_quantile_95(100000), 1.960, 1e-3);
}

TEST(Statistics, ASpreadLargerThanTheDifferenceIsNoDifference) {
  Contest c{{{0.80, 0.84, 0.82}, {0.83, 0.79, 0.84}}, 100000};
  EXPECT_FALSE(c.distinguishable(0, 1));
  c.shares = {{0.801, 0.802, 0.800}, {0.841, 0.843, 0.842}};
  EXPECT_TRUE(c.distinguishable(0, 1));
  // Pooled: deviation 0.001 with 4 degrees of freedom.
  EXPECT_NEAR(c.half_width(0), 2.776 * 0.001 / std::sqrt(3.0), 2e-3);
}

TEST(Statistics, FewImagesWidenTheInterval) {
  Contest c{{{0.80}, {0.82}}, 200};
  EXPECT_NEAR(c.half_width(0), 1.96 * std::sqrt(0.8 * 0.2 / 200), 1e-4);
  EXPECT_FALSE(c.distinguishable(0, 1));
  c.images = 1000000;
  EXPECT_TRUE(c.distinguishable(0, 1));
}

Contender contender(const std::string& name, std::vector<double> top1, double ms) {
  Contender c;
  c.name = name;
  c.top1 = std::move(top1);
  c.ms_per_image = ms;
  c.train_images_per_s = 100 / ms;
  c.images_per_s = 1000 / ms;
  return c;
}

Comparison comparison(std::vector<Contender> contenders, int64_t seeds = 3) {
  Comparison c;
  c.title = "a < b";
  c.split = "test";
  c.images = 10000;
  c.seeds = seeds;
  c.contenders = std::move(contenders);
  return c;
}

TEST(Verdict, AClearWinnerIsNamed) {
  const Comparison c = comparison({contender("slow", {0.70, 0.71, 0.70}, 2), contender("good", {0.90, 0.91, 0.90}, 1)});
  EXPECT_THAT(verdict(c), HasSubstr("Take good: its 90.3 ±"));
  EXPECT_THAT(verdict(c), HasSubstr("the next is slow with 70.3 ±"));
}

TEST(Verdict, EqualAccuraciesAreDecidedBySpeed) {
  const Comparison c = comparison({contender("slow", {0.90, 0.91, 0.90}, 2), contender("fast", {0.90, 0.90, 0.91}, 1)});
  EXPECT_THAT(verdict(c), HasSubstr("not distinguishable in accuracy"));
  EXPECT_THAT(verdict(c), HasSubstr("fast answers an image in 1 ms, the shortest of all"));
}

TEST(Verdict, EqualInEverything) {
  const Comparison c = comparison({contender("a", {0.90, 0.91, 0.90}, 1.02), contender("b", {0.90, 0.90, 0.91}, 1)});
  EXPECT_THAT(verdict(c), HasSubstr("Nor are they in speed"));
}

TEST(Verdict, AFasterEqualBeatsTheLeaderAndTheRestIsBehind) {
  const Comparison c = comparison({contender("leader", {0.91, 0.91, 0.90}, 4), contender("equal", {0.90, 0.90, 0.91}, 1), contender("behind", {0.7, 0.7, 0.7}, 1)});
  EXPECT_THAT(verdict(c), HasSubstr("leader leads with 90.7 ±"));
  EXPECT_THAT(verdict(c), HasSubstr("take equal, the fastest of these (1 ms an image against 4)"));
  EXPECT_THAT(verdict(c), HasSubstr("behind is behind by more than chance explains"));
}

TEST(Verdict, OneSeedSaysThatItDoesNotKnowTheSpread) {
  EXPECT_THAT(verdict(comparison({contender("a", {0.9}, 1), contender("b", {0.5}, 1)}, 1)), HasSubstr("With one seed the spread of training is not known"));
  EXPECT_THAT(verdict(comparison({})), HasSubstr("No contender was trained"));
}

TEST(CompareReport, IsSelfContainedAndComplete) {
  Comparison c = comparison({contender("window:size=7", {0.9, 0.91, 0.9}, 1), contender("global", {0.8, 0.8, 0.81}, 2)});
  CellMap map{"pattern", 2, 2, {1, 0.5, 0, 0}, 1};
  c.contenders[0].patterns = {map};
  c.contenders[0].explained = "windows < maps";
  c.attention_growth = {{0, {256, 1024}, {1, 4}, {1, 4}}, {1, {256, 1024}, {1, std::nan("")}, {1, std::nan("")}}};
  c.not_measured = {"global: not measured"};
  const std::string page = render(c);
  EXPECT_THAT(page, HasSubstr("<title>a &lt; b</title>"));
  for (const char* part : {"Accuracy against the time of an answer", "All figures", "How cost grows", "Who meets whom", "What was equal", "global: not measured", "<code>window:size=7</code><br>windows &lt; maps"})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("src=\"http")));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace fovea::report
