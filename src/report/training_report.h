// The page a training run leaves behind: what was reached, how training went, where the model errs, what was run on
// what.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/html.h"
#include "report/overfitting.h"
#include "report/png_data.h"
#include "report/text_file.h"

namespace fovea::report {

// Facts that belong together, under one heading: "Model", "Data", "Training", "Machine".
struct FactGroup {
  std::string heading;
  std::vector<Definition> facts;
};

struct ClassMetrics {
  double precision =
      kNotMeasured;  // shares in 0..1; NaN where undefined (nothing predicted as the class, or no image of it)
  double recall = kNotMeasured;
  double f1 = kNotMeasured;
  int64_t support = 0;  // images of the class
};

// One evaluation over one part of the data.
struct SplitResult {
  std::string split;  // "validation", "test"
  int64_t images = 0;
  double top1 = kNotMeasured;  // shares in 0..1
  double top5 = kNotMeasured;
  double loss = kNotMeasured;  // nats
};

struct Mistake {
  RgbImage image;
  std::string path;
  std::string true_class;
  std::string predicted_class;
  double probability = kNotMeasured;  // that the model gave the predicted class, 0..1
};

struct SkippedFile {
  std::string path;
  std::string reason;
};

struct TrainingReport {
  std::string title;  // "swin_mini on fashion-mnist"
  std::string model;  // name in the sentences: "swin_mini"
  int64_t train_images = 0;
  int64_t validation_images = 0;
  int64_t planned_epochs = 0;           // 0: open-ended
  std::string why_ended;                // a sentence: "All planned epochs were trained."; may be empty
  double total_seconds = kNotMeasured;  // wall time of the whole run

  std::vector<EpochMetrics> epochs;  // in order
  int64_t best_epoch = 0;            // the epoch whose weights are kept as the best; 0: none
  std::string best_by;               // what made it the best: "highest validation top-1 accuracy"

  std::optional<SplitResult> test;  // when an untouched test part was evaluated after training

  // Where the confusion matrix, the class table and the mistakes come from: "validation" or "test", and with which
  // weights.
  std::string evaluated_split = "validation";
  std::string evaluated_weights = "the best epoch's weights";
  std::vector<std::string> classes;
  std::vector<int64_t> confusion;           // row-major (true, predicted), classes x classes image counts; may be empty
  std::vector<ClassMetrics> class_metrics;  // one per class; may be empty
  std::vector<Mistake> mistakes;            // the most confident first

  std::vector<SkippedFile> skipped;
  std::vector<FactGroup> facts;
};

// The whole page. Lists that are empty are said to be empty. Throws InternalError where sizes do not fit together.
std::string render(const TrainingReport& report);

}  // namespace fovea::report
