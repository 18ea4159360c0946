// Any text, as one of the files that a training run or a comparison keeps to continue from, is read or gives an Error or nothing; what is
// read says the same when it is written and read again.
#include <string>
#include <vector>

#include "core/check.h"
#include "json_mutator.h"
#include "report/csv.h"
#include "tasks/checkpoint.h"
#include "tasks/compare_trial.h"
#include "tasks/run_directory.h"
#include "tasks/train_classifier_validation.h"

const std::vector<std::string>& known_words() {
  static const std::vector<std::string> kWords = [] {
    using json_mutator::Json;
    std::vector<std::string> words = {"seed", "epoch", "step", "batch", "partial_loss_sum", "partial_correct", "partial_images", "partial_seconds", "best_epoch",
                                      "best_val_top1", "best_val_loss", "finished", "stopped_early", "model", "training", "run", "f32", "bf16", "auto"};
    for (const std::string& text : {fovea::Validation().to_json(), fovea::to_json(fovea::JudgedTrial()), fovea::to_json(fovea::ModelConfig())})
      json_mutator::add_keys(words, Json::parse(text));
    const Json run = Json::parse(fovea::to_json(fovea::RunConfig()));
    for (const char* part : {"training", "run"}) json_mutator::add_keys(words, run[part]);
    return words;
  }();
  return kWords;
}

namespace {

template <class Read>
void read(Read&& read_text) {
  try {
    read_text();
  } catch (const fovea::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  read([&] {
    const fovea::RunConfig run = fovea::run_config_from_json(text, "fuzz");
    const std::string written = fovea::to_json(run);
    if (run.epochs() <= 0 || fovea::to_json(fovea::run_config_from_json(written, "fuzz")) != written) __builtin_trap();
  });
  read([&] { (void)fovea::training_state_from_json(text, "fuzz"); });
  read([&] {
    constexpr int64_t kClasses = 3, kImages = 100;
    const fovea::Validation v = fovea::Validation::from_json(text, kClasses, kImages);
    if (v.confusion.images() > kImages) __builtin_trap();
    (void)v.confusion.per_class();
    if (v.confusion.classes() == kClasses && fovea::Validation::from_json(v.to_json(), kClasses, kImages).to_json() != v.to_json()) __builtin_trap();
  });
  read([&] {
    if (const auto judged = fovea::judged_trial_from_json(text)) (void)fovea::to_json(*judged);
  });
  for (const fovea::report::CsvRow& row : fovea::report::parse_csv(text)) read([&] { (void)fovea::epoch_metrics_of(row, "fuzz"); });
  return 0;
}
