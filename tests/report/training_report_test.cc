#include "report/training_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fovea/error.h"
#include "markup_check.h"

namespace fovea::report {
namespace {

using testing::HasSubstr;
using testing::Not;
using Verdict = Overfitting::Verdict;

std::vector<EpochMetrics> epochs_of(const std::vector<double>& train, const std::vector<double>& validation) {
  std::vector<EpochMetrics> epochs(train.size());
  for (size_t i = 0; i < train.size(); ++i) {
    EpochMetrics& row = epochs[i];
    row.epoch = static_cast<int64_t>(i) + 1;
    row.step = 100 * row.epoch;
    row.lr = 1e-3 / static_cast<double>(row.epoch);
    row.train_loss = train[i];
    row.train_top1 = 1 - train[i];
    row.val_loss = validation[i];
    row.val_top1 = 1 - validation[i];
    row.images_per_s = 2000;
    row.seconds = 30;
  }
  return epochs;
}

RgbImage grey(int width, int height) {
  return {width, height, std::vector<uint8_t>(3 * static_cast<size_t>(width) * static_cast<size_t>(height), 128)};
}

TrainingReport example(int classes = 3) {
  TrainingReport report;
  report.title = "swin_mini on shapes";
  report.model = "swin_mini";
  report.train_images = 55000;
  report.validation_images = 5000;
  report.epochs = epochs_of({0.6, 0.4, 0.3, 0.2}, {0.5, 0.3, 0.2, 0.088});
  report.best_epoch = 4;
  report.best_by = "highest validation top-1 accuracy";
  for (int i = 0; i < classes; ++i) {
    report.classes.push_back("class " + std::to_string(i));
    report.class_metrics.push_back({0.9, 0.8, 0.847, 100});
    for (int j = 0; j < classes; ++j) report.confusion.push_back(i == j ? 90 : 10 + i + j);
  }
  report.mistakes = {{grey(28, 28), "val/a/1.png", "class 0", "class 1", 0.987}};
  report.skipped = {{"val/b/2.png", "cut off"}};
  report.facts = {{"Model", {{"parameters", "1,234,567", "numbers learned in training"}}}};
  return report;
}

// What holds for every page, whatever is in it.
std::string rendered(const TrainingReport& report) {
  const std::string page = render(report);
  EXPECT_EQ(markup_problem(page), "");
  EXPECT_EQ(occurrences(page, "https://"), 0);
  EXPECT_EQ(occurrences(page, "http://"), occurrences(page, "xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_EQ(occurrences(page, "<script"), 0);
  EXPECT_EQ(occurrences(page, " src=\""), occurrences(page, " src=\"data:image/png;base64,"));
  EXPECT_EQ(occurrences(page, "nan"), 0);
  return page;
}

TEST(Overfitting, StartsAfterTheLowestValidationLossWhenTrainingFallsOn) {
  const Overfitting found = find_overfitting(epochs_of({5, 4, 3, 2, 1}, {5, 4, 3, 4, 5}));
  EXPECT_EQ(found.verdict, Verdict::kSeen);
  EXPECT_EQ(found.epoch, 3);
  EXPECT_THAT(found.sentence, HasSubstr("Over-fitting starts after epoch 3"));
}

TEST(Overfitting, NeedsTwoEpochsOfFallingTrainingLoss) {
  EXPECT_EQ(find_overfitting(epochs_of({5, 4, 3, 2}, {5, 4, 3, 4})).verdict, Verdict::kTooEarly);
  EXPECT_EQ(find_overfitting(epochs_of({5, 4, 3, 2, 2}, {5, 4, 3, 4, 5})).verdict, Verdict::kNotSeen);
  EXPECT_EQ(find_overfitting(epochs_of({5, 4, 3, 4, 3.5}, {5, 4, 3, 4, 5})).verdict, Verdict::kNotSeen);
  EXPECT_EQ(find_overfitting(epochs_of({5, 4, 3, NAN, 1}, {5, 4, 3, 4, 5})).verdict, Verdict::kNotSeen);
}

TEST(Overfitting, IsNotSeenWhileValidationImproves) {
  const Overfitting found = find_overfitting(epochs_of({3, 2, 1}, {3, 2, 1}));
  EXPECT_EQ(found.verdict, Verdict::kNotSeen);
  EXPECT_EQ(found.epoch, 3);
  EXPECT_THAT(found.sentence, HasSubstr("No over-fitting seen"));
  // A plateau counts from its end: validation has not got worse before.
  EXPECT_EQ(find_overfitting(epochs_of({5, 4, 3, 2, 1}, {5, 2, 2, 2, 2})).verdict, Verdict::kNotSeen);
}

TEST(Overfitting, EpochsWithoutValidationAreNoMinimum) {
  EXPECT_EQ(find_overfitting(epochs_of({2, 1}, {NAN, NAN})).verdict, Verdict::kNoMeasure);
  EXPECT_EQ(find_overfitting({}).verdict, Verdict::kNoMeasure);
  EXPECT_EQ(find_overfitting(epochs_of({6, 5, 4, 3, 2, 1}, {NAN, 5, 3, NAN, 4, 5})).epoch, 3);
  EXPECT_EQ(find_overfitting(epochs_of({6, 5, 4, 3, 2, 1}, {NAN, 5, 3, NAN, 4, 5})).verdict, Verdict::kSeen);
}

TEST(TrainingReport, SaysTheResultFirst) {
  const std::string page = rendered(example());
  EXPECT_THAT(page, HasSubstr("<p class=\"result\">swin_mini reached 91.2\u00a0% top-1 accuracy on the 5,000 "
                              "validation images after 4 epochs.</p>"));
  EXPECT_LT(page.find("class=\"result\""), page.find("<h2>"));
}

TEST(TrainingReport, TellsTheBestEpochFromTheLast) {
  TrainingReport report = example();
  report.best_epoch = 3;
  report.planned_epochs = 8;
  report.test = SplitResult{"test", 10000, 0.9, 0.99, 0.3};
  const std::string page = rendered(report);
  EXPECT_THAT(page, HasSubstr("reached 80.0\u00a0% top-1 accuracy on the 5,000 validation images after epoch 3 of the "
                              "4 it was trained for."));
  EXPECT_THAT(page, HasSubstr("best epoch: 3"));
  EXPECT_THAT(page, HasSubstr("On the 10,000 test images, which played no part"));
  EXPECT_THAT(page, HasSubstr("8 epochs had been planned"));
}

TEST(TrainingReport, NamesOverfittingInWordsAndOnTheChart) {
  TrainingReport report = example();
  EXPECT_THAT(rendered(report), HasSubstr("No over-fitting seen"));
  report.epochs = epochs_of({0.6, 0.4, 0.3, 0.2, 0.1}, {0.5, 0.3, 0.4, 0.5, 0.6});
  const std::string page = rendered(report);
  EXPECT_THAT(page, HasSubstr("class=\"note\">over-fitting starts after epoch 2</text>"));
  EXPECT_THAT(page, HasSubstr("Over-fitting starts after epoch 2: validation loss is lowest there (0.3 nats)"));
}

TEST(TrainingReport, EveryAxisHasItsUnit) {
  const std::string page = rendered(example());
  EXPECT_EQ(occurrences(page, "<svg"), 4);
  EXPECT_EQ(occurrences(page, ">epoch (passes over the training images)</text>"), 4);
  for (const char* label :
       {"cross-entropy loss (nats)", "top-1 accuracy (%)", "learning rate (no unit)", "throughput (images/s)"})
    EXPECT_EQ(occurrences(page, std::string(">") + label + "</text>"), 1) << label;
}

TEST(TrainingReport, ShowsMatrixTablePicturesSkippedAndFacts) {
  const std::string page = rendered(example());
  EXPECT_EQ(occurrences(page, "<table class=\"cm\">"), 1);
  EXPECT_THAT(page,
              HasSubstr("title=\"11 of 113 images of &#39;class 0&#39; were called &#39;class 1&#39; (9.7\u00a0%)\""));
  EXPECT_THAT(page, HasSubstr("84.7\u00a0%"));
  EXPECT_THAT(page, HasSubstr("true: <b>class 0</b>"));
  EXPECT_THAT(page, HasSubstr("probability 98.7\u00a0%"));
  EXPECT_THAT(page, HasSubstr("1 file could not be used and was left out"));
  EXPECT_THAT(page,
              HasSubstr("<dt>parameters</dt><dd>1,234,567</dd><dd class=\"why\">numbers learned in training</dd>"));
}

TEST(TrainingReport, ListsPairsInsteadOfALargeMatrix) {
  EXPECT_THAT(rendered(example(30)), HasSubstr("<table class=\"cm\">"));
  const std::string page = rendered(example(200));
  EXPECT_THAT(page, Not(HasSubstr("<table class=\"cm\">")));
  EXPECT_THAT(page, HasSubstr("The 30 most frequent of 39,800 kinds of mistake"));
  EXPECT_THAT(page, HasSubstr("<td>class 198</td><td>class 199</td><td class=\"n\">407</td>"));
  EXPECT_THAT(page, HasSubstr("class=\"scroll tall\""));
}

TEST(TrainingReport, HostileNamesAndPathsStayText) {
  const std::string evil = "\"><script>alert('1')</script>&\x01\xfe\n</svg>";
  TrainingReport report = example(2);
  report.title = report.model = report.why_ended = report.best_by = evil;
  report.evaluated_split = report.evaluated_weights = evil;
  report.classes = {evil, "</td></table>"};
  report.mistakes = {{grey(3, 2), evil, evil, evil, 0.5}, {{}, evil, evil, evil, NAN}};
  report.skipped = {{evil, evil}};
  report.facts = {{evil, {{evil, evil, evil}}}};
  report.test = SplitResult{evil, 5, 0.5, 0.5, 0.5};
  rendered(report);
  report.classes.assign(40, evil);
  report.class_metrics.assign(40, {});
  report.confusion.assign(1600, 1);
  rendered(report);
}

TEST(TrainingReport, OneEpochOneClass) {
  TrainingReport report = example(1);
  report.epochs.resize(1);
  report.best_epoch = 1;
  const std::string page = rendered(report);
  EXPECT_THAT(page, HasSubstr("after 1 epoch."));
  EXPECT_THAT(page, HasSubstr("No image was taken for another class."));
}

TEST(TrainingReport, NothingMeasured) {
  TrainingReport report = example();
  report.epochs = epochs_of({NAN, INFINITY}, {NAN, NAN});
  for (EpochMetrics& row : report.epochs) row.lr = row.images_per_s = row.seconds = NAN;
  report.class_metrics.assign(3, {NAN, NAN, NAN, 0});
  report.confusion.assign(9, 0);
  const std::string page = rendered(report);
  EXPECT_THAT(page, HasSubstr("its accuracy was not validated"));
  EXPECT_THAT(page, HasSubstr("no data"));
}

TEST(TrainingReport, EmptyListsAreSaidToBeEmpty) {
  TrainingReport report;
  report.title = "empty";
  report.model = "vit_mini";
  const std::string page = rendered(report);
  for (const char* text :
       {"vit_mini has no result yet", "No epoch was finished", "No confusion matrix was computed",
        "No per-class results were computed", "No mistakes to show", "No file was skipped", "Nothing was recorded"})
    EXPECT_THAT(page, HasSubstr(text));
}

TEST(TrainingReport, LongListsOfSkippedFilesAreCut) {
  TrainingReport report = example();
  report.skipped.assign(5000, {"a.png", "cut off"});
  const std::string page = rendered(report);
  EXPECT_THAT(page, HasSubstr("5,000 files could not be used"));
  EXPECT_THAT(page, HasSubstr("The first 200 of 5,000 skipped files"));
  EXPECT_EQ(occurrences(page, "cut off"), 200);
}

TEST(TrainingReport, SizesThatDoNotFitAreOurMistake) {
  TrainingReport report = example();
  report.confusion.pop_back();
  EXPECT_THROW(render(report), InternalError);
  report = example();
  report.class_metrics.pop_back();
  EXPECT_THROW(render(report), InternalError);
}

}  // namespace
}  // namespace fovea::report
