// report.html of a training run.
#pragma once

#include <functional>

#include "image/image.h"
#include "tasks/checkpoint.h"
#include "tasks/run_directory.h"
#include "tasks/train_classifier_validation.h"

namespace fovea {

struct ReportInputs {
  const RunDirectory& run;
  const TrainingState& state;
  const Validation& best;                           // of the best epoch
  const TrainPlan& plan;
  const std::vector<SkippedFile>& skipped;
  std::string why_ended;                            // a sentence, or empty while the run goes on
  int threads = 0;
  std::function<Image(int64_t)> picture;            // a validation image as it is in the data; may throw Error
  std::function<std::string(int64_t)> picture_name;
};

// Throws Error when the file cannot be written.
void write_training_report(const ReportInputs& inputs);

}  // namespace fovea
