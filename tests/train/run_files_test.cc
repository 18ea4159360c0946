// What a run and a comparison keep to continue from, read back from files that somebody may have changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "tasks/checkpoint.h"
#include "tasks/compare_trial.h"
#include "tasks/run_directory.h"
#include "tasks/train_classifier_validation.h"

namespace fovea {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::ThrowsMessage;

RunConfig some_run() {
  RunConfig run;
  run.options.data = "pictures";
  run.options.batch = 8;
  run.kernels = "cpu.avx2";
  run.steps_per_epoch = 3;
  run.total_steps = 7;
  run.notes = {"a note"};
  return run;
}

TEST(RunFiles, AConfigurationComesBackAndItsMistakesAreNamed) {
  const std::string text = to_json(some_run());
  EXPECT_EQ(to_json(run_config_from_json(text, "f")), text);
  EXPECT_EQ(run_config_from_json(text, "f").epochs(), 3);
  const auto reading = [&](const char* part, const char* key, const ordered_json& value) {
    ordered_json j = ordered_json::parse(text);
    j[part][key] = value;
    return [j] { (void)run_config_from_json(j.dump(), "the file"); };
  };
  for (const char* key : {"steps_per_epoch", "total_steps"})
    for (const ordered_json& value : {ordered_json(0), ordered_json(-1), ordered_json(1e300), ordered_json(INT64_MAX), ordered_json("1")})
      EXPECT_THAT(reading("run", key, value), ThrowsMessage<Error>(HasSubstr("the file"))) << key << value;
  for (const char* key : {"batch", "accumulate"})
    for (const ordered_json& value : {ordered_json(0), ordered_json(int64_t{1} << 21), ordered_json(1.5)})
      EXPECT_THAT(reading("training", key, value), ThrowsMessage<Error>(HasSubstr("the file"))) << key << value;
  for (const char* key : {"warmup_steps", "train_images", "val_images"})
    EXPECT_THAT(reading("run", key, INT64_MAX), ThrowsMessage<Error>(HasSubstr("out of range"))) << key;
  for (const std::string& wrong : {std::string("[]"), std::string("{}"), std::string("{\"model\": {}, \"training\": [], \"run\": 1}"), std::string(100000, '[')})
    EXPECT_THROW((void)run_config_from_json(wrong, "f"), Error) << wrong.substr(0, 40);
}

TEST(RunFiles, ATrainingStateIsWholeOrBroken) {
  ordered_json j = {{"seed", 18446744073709551615U}, {"epoch", 1}, {"step", 3}, {"batch", 0}, {"partial_loss_sum", 0.5}, {"partial_correct", 1}, {"partial_images", 2},
                    {"partial_seconds", 0.25}, {"best_epoch", 1}, {"best_val_top1", 0.5}, {"best_val_loss", 1.5}, {"finished", false}, {"stopped_early", false}};
  EXPECT_EQ(training_state_from_json(j.dump(), "f").seed, UINT64_MAX);
  EXPECT_EQ(training_state_from_json(j.dump(), "f").step, 3);
  for (const auto& [key, value] : j.items()) {
    ordered_json wrong = j;
    wrong.erase(key);
    EXPECT_THROW((void)training_state_from_json(wrong.dump(), "f"), Error) << key;
    wrong[key] = "1";
    EXPECT_THROW((void)training_state_from_json(wrong.dump(), "f"), Error) << key;
  }
  for (const char* key : {"epoch", "step", "batch", "best_epoch", "partial_correct", "partial_images"})
    for (const ordered_json& value : {ordered_json(-1), ordered_json(INT64_MAX), ordered_json(1e300)}) {
      ordered_json wrong = j;
      wrong[key] = value;
      EXPECT_THROW((void)training_state_from_json(wrong.dump(), "f"), Error) << key << value;
    }
  EXPECT_THROW((void)training_state_from_json("[", "f"), Error);
}

TEST(RunFiles, AValidationFitsItsModelAndDataOrIsEmpty) {
  Validation v;
  v.metrics.add(0.5, 3, 5);
  v.confusion = ConfusionMatrix(2);
  v.confusion.add(0, 0, 3);
  v.confusion.add(1, 0, 2);
  v.mistakes.push_back({4, 1, 0, 0.75});
  EXPECT_EQ(Validation::from_json(v.to_json(), 2, 5).to_json(), v.to_json());
  const auto is_empty = [&](const std::function<void(ordered_json&)>& change) {
    ordered_json j = ordered_json::parse(v.to_json());
    change(j);
    return Validation::from_json(j.dump(), 2, 5).confusion.classes() == 0;
  };
  EXPECT_FALSE(is_empty([](ordered_json&) {}));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["classes"] = 100000; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["confusion"] = {{0, 0, INT64_MAX}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["confusion"] = {{0, 0, 3}, {0, 0, 3}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["confusion"] = {{0, 2, 1}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["confusion"] = {{0, 0, -1}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["confusion"] = 1; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["mistakes"] = {{5, 1, 0, 0.5}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["mistakes"] = {{-1, 1, 0, 0.5}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["mistakes"] = {{0, 1, 2, 0.5}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j["mistakes"] = {{0, 1, 0}}; }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j.erase("mistakes"); }));
  EXPECT_TRUE(is_empty([](ordered_json& j) { j = 1; }));
}

TEST(RunFiles, ATrialComesBackOrIsMadeAnew) {
  JudgedTrial judged{{0, 0, 0.5, 0.75, 1.5, 0.25, 2, 3, 4, 5}, "test", 100};
  const auto back = judged_trial_from_json(to_json(judged));
  ASSERT_TRUE(back);
  EXPECT_EQ(to_json(*back), to_json(judged));
  judged.trial.train_images_per_s = std::numeric_limits<double>::quiet_NaN();  // stored as null
  ASSERT_TRUE(judged_trial_from_json(to_json(judged)));
  EXPECT_TRUE(std::isnan(judged_trial_from_json(to_json(judged))->trial.train_images_per_s));
  ordered_json j = ordered_json::parse(to_json(judged));
  for (const char* key : {"top1", "best_epoch", "split", "images"}) {
    ordered_json wrong = j;
    wrong[key] = {1};
    EXPECT_FALSE(judged_trial_from_json(wrong.dump())) << key;
  }
  for (const char* text : {"", "[]", "1", "{"}) EXPECT_FALSE(judged_trial_from_json(text)) << text;
}

TEST(RunFiles, ARowOfMetricsHasCountsAndNumbers) {
  const report::CsvRow row = {"1", "3", "0.1", "1.5", "0.5", "nan", "0.25", "100", "2"};
  EXPECT_EQ(epoch_metrics_of(row, "f").step, 3);
  for (const char* wrong : {"1e300", "-1", "nan", "inf", "", "x"}) {
    report::CsvRow changed = row;
    changed[0] = wrong;
    EXPECT_THROW((void)epoch_metrics_of(changed, "f"), Error) << wrong;
  }
  EXPECT_THROW((void)epoch_metrics_of({"1"}, "f"), Error);
}

}  // namespace
}  // namespace fovea
