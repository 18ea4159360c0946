// The epochs of a training run, and where over-fitting starts in them.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>

namespace fovea::report {

inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// One row of metrics.csv. Losses are mean cross-entropies in nats, top-1 values shares in 0..1; NaN: not measured.
struct EpochMetrics {
  int64_t epoch = 0;  // from 1
  int64_t step = 0;   // optimizer steps since the start
  double lr = kNotMeasured;
  double train_loss = kNotMeasured;
  double train_top1 = kNotMeasured;
  double val_loss = kNotMeasured;
  double val_top1 = kNotMeasured;
  double images_per_s = kNotMeasured;  // training images per second of training, validation not counted
  double seconds = kNotMeasured;       // wall time of the epoch, validation included
};

// Over-fitting starts after the epoch in which validation loss has its minimum, if training loss then keeps falling for
// at least two more epochs.
struct Overfitting {
  enum class Verdict {
    kSeen,
    kNotSeen,    // the condition was testable and did not hold, or validation loss was still falling at the end
    kTooEarly,   // validation loss has turned, but fewer than two epochs follow its minimum
    kNoMeasure,  // no epoch has a finite validation loss
  };
  Verdict verdict = Verdict::kNoMeasure;
  int64_t epoch = 0;     // of the lowest validation loss (the last one among equals); 0 for kNoMeasure
  std::string sentence;  // the finding in plain words, with its numbers
};

Overfitting find_overfitting(std::span<const EpochMetrics> epochs);

}  // namespace fovea::report
