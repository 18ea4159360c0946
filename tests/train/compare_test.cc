// compare() on a small synthetic data set: what it leaves, that it continues, what it refuses.
#include "fovea/compare.h"

#include <nlohmann/json.hpp>

#include "run_fixture.h"
#include "tasks/compare_measure.h"

namespace fovea {
namespace {

using namespace testing_runs;
using testing::HasSubstr;

class Watch : public CompareObserver {
 public:
  void on_progress(const CompareProgress& p) override {
    EXPECT_GE(p.done, last_ - 1e-9) << p.what;
    EXPECT_LE(p.done, 1);
    last_ = p.done;
    ++calls;
  }
  void on_trial(const CompareTrial& t, const std::string&) override { trials.push_back(t); }
  bool stop_requested() override { return stop_after > 0 && calls >= stop_after; }
  std::vector<CompareTrial> trials;
  int calls = 0, stop_after = 0;

 private:
  double last_ = 0;
};

class Comparisons : public testing::Test {
 protected:
  void SetUp() override { make_images(folder_ / "data", 3, 24); }
  CompareOptions options(const std::string& out) {
    CompareOptions o;
    o.data = (folder_ / "data").string();
    o.model = "swin_mini";
    o.attentions = {"window:size=3", "global"};
    o.seeds = 2;
    o.epochs = 1;
    o.batch = 16;
    o.height = o.width = 28;
    o.set = {{"dim", "16"}, {"stage_heads", "1,2"}, {"depths", "1,1"}};
    o.out = (folder_ / out).string();
    o.growth_tokens = 1024;
    o.growth_seconds = 5;
    return o;
  }
  std::string refused(const CompareOptions& o) {
    Watch watch;
    try {
      compare(o, watch);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing was refused";
  }
  Folder folder_;
};

TEST_F(Comparisons, LeavesWhatItPromises) {
  Watch watch;
  const CompareResult r = compare(options("c"), watch);
  EXPECT_EQ(watch.trials.size(), 4u);
  ASSERT_EQ(r.trials.size(), 4u);
  ASSERT_EQ(r.costs.size(), 2u);
  EXPECT_GT(r.costs[0].parameters, r.costs[1].parameters);  // the table of the windows
  EXPECT_GT(r.costs[0].training_memory_mib, r.costs[0].inference_memory_mib);
  EXPECT_FALSE(r.verdict.empty());
  for (const char* name : {"report.html", "trials.csv", "contenders.csv", "growth.csv", "compare.json", "trials/window_size-3-seed1/best.safetensors"})
    EXPECT_TRUE(fs::exists(folder_ / "c" / name)) << name;
  const auto j = nlohmann::json::parse(read_file(folder_ / "c" / "compare.json"));
  EXPECT_EQ(j["contenders"].size(), 2u);
  EXPECT_EQ(j["verdict"], r.verdict);
  for (const GrowthPoint& p : r.growth) EXPECT_TRUE(p.ms > 0 || !p.why.empty());
}

TEST_F(Comparisons, AStoppedComparisonContinuesToTheSameResult) {
  Watch whole;
  const CompareResult once = compare(options("a"), whole);
  CompareOptions o = options("b");
  Watch first;
  first.stop_after = 5;
  EXPECT_THROW(compare(o, first), Interrupted);
  Watch second;
  const CompareResult resumed = compare(o, second);
  EXPECT_LT(second.trials.size() + first.trials.size(), 5u);
  ASSERT_EQ(resumed.trials.size(), once.trials.size());
  for (size_t i = 0; i < once.trials.size(); ++i) {
    EXPECT_EQ(resumed.trials[i].top1, once.trials[i].top1) << i;
    EXPECT_EQ(resumed.trials[i].loss, once.trials[i].loss) << i;
  }
  Watch third;  // all is there
  compare(o, third);
  EXPECT_EQ(third.trials.size(), 0u);
}

TEST_F(Comparisons, WhatIsWrongIsSaidBeforeAnythingIsTrained) {
  CompareOptions o = options("w");
  o.attentions = {"global"};
  EXPECT_THAT(refused(o), HasSubstr("at least two attentions"));
  o.attentions = {"global", "windo", "window:sise=3"};
  EXPECT_THAT(refused(o), AllOf(HasSubstr("2 of 3 contenders cannot run"), HasSubstr("did you mean 'window'"), HasSubstr("no option 'sise'")));
  o.attentions = {"global", "global"};
  EXPECT_THAT(refused(o), HasSubstr("named twice"));
  o = options("w");
  o.minutes = 1;
  EXPECT_THAT(refused(o), HasSubstr("exclude each other"));
  EXPECT_FALSE(fs::exists(folder_ / "w"));
}

TEST_F(Comparisons, AnotherComparisonInTheFolderIsRefused) {
  CompareOptions o = options("x");
  o.growth = false;
  Watch watch;
  compare(o, watch);
  o.seeds = 3;
  EXPECT_THAT(refused(o), HasSubstr("holds another comparison"));
}

TEST(Influence, IsZeroExactlyOutsideTheWindow) {
  ModelConfig c = preset_config("swin_mini");
  c.attention = "window:size=7";
  const std::vector<double> s = influence(c, 0, 14, 14, 5 * 14 + 6);
  for (int i = 0; i < 14 * 14; ++i) EXPECT_EQ(s[static_cast<size_t>(i)] > 0, i / 14 < 7 && i % 14 < 7) << i;
  const std::vector<double> shifted = influence(c, 1, 14, 14, 5 * 14 + 6);
  for (int i = 0; i < 14 * 14; ++i) EXPECT_EQ(shifted[static_cast<size_t>(i)] > 0, i / 14 >= 3 && i / 14 < 10 && i % 14 >= 3 && i % 14 < 10) << i;
}

}  // namespace
}  // namespace fovea
