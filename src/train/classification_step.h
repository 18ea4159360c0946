// One training step of a classifier, without data sets or schedules: forward, cross-entropy, backward, clipping, update.
#pragma once

#include "heads/classifier.h"
#include "train/optimizer.h"

namespace fovea {

struct StepConfig {
  double label_smoothing = 0.1;
  double clip_norm = 1;        // 0: no clipping
  AdamWConfig optimizer;
};

struct StepResult {
  double loss = 0;             // what is minimised: the batch's mean, natural logarithm, label smoothing and layers' own losses included
  double cross_entropy = 0;    // the same without label smoothing: comparable with a validation loss
  int64_t correct = 0;         // images whose most probable class was the right one
};

class ClassificationStep {
 public:
  // The model's parameters get gradients if they have none.
  ClassificationStep(Classifier& model, const StepConfig& config);

  // Adds the gradients of one batch: images (B, C, H, W) normalised, in the context's dtype; labels (B) or, when null,
  // soft_targets (B, classes). `weight` is the batch's share of the update (1 without accumulation). Random numbers (dropout,
  // stochastic depth) are a function of `rng`. The distilled model's loss is the mean of its heads' losses.
  StepResult accumulate(ConstTensor images, const int32_t* labels, ConstTensor soft_targets, double weight, const Rng& rng, Context& ctx);

  // Clips, updates with rate `lr`, clears the gradients. Returns the gradient norm; when that is NaN or infinite nothing is
  // updated and the caller must stop.
  double update(double lr, Context& ctx);

  AdamW& optimizer() { return optimizer_; }
  Classifier& model() { return model_; }
  Tape& tape() { return tape_; }  // its arena's peak() is the memory that the forward keeps

 private:
  Classifier& model_;
  StepConfig config_;
  AdamW optimizer_;
  Tape tape_;
  Rng rng_;  // of the last accumulate
};

// Index of the largest of each row's values, the first of equals; rows with NaN give -1.
void argmax_rows(ConstTensor logits /* (rows, classes) */, int32_t* index);

}  // namespace fovea
