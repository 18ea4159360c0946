// Measuring a classifier on a data set.
#pragma once

#include <functional>

#include "fovea/model.h"

namespace fovea {

struct EvaluateOptions {
  std::string data;            // folder, .tar.gz, IDX folder or an installed data set's name
  std::string split;           // train, val, test; empty: test, else val
  int64_t batch = 64;
  ExecutionOptions execution;
  uint64_t seed = 0;           // of the held-out validation part, where the data has none
  double max_broken = 0.01;    // share of unreadable images above which evaluation stops
  std::string against;         // a second model to compare with, or empty
  Settings set;                // for both models
  int64_t height = 0, width = 0;
};

struct ClassScore {
  std::string name;
  double precision = 0, recall = 0, f1 = 0;  // NaN where undefined: precision of what was never predicted
  int64_t support = 0;         // images of this class
};

struct SkippedFile {
  std::string file, why;
};

struct Evaluation {
  std::string split;
  int64_t images = 0;
  double top1 = 0, top5 = 0;   // shares in 0..1
  double loss = 0;             // mean cross-entropy, nats
  std::vector<ClassScore> classes;
  std::vector<std::vector<int64_t>> confusion;  // [true class][predicted class]
  std::vector<SkippedFile> skipped;
  std::vector<std::string> notes;                // sentences about the data: what was held out, what was left aside
  double seconds = 0, images_per_s = 0;
  // With `against`: share of images on which both models name the same class, and the largest difference of a probability.
  double agreement = 0, largest_difference = 0, against_top1 = 0;
};

// `progress(done, total)` is called now and then from the calling thread.
Evaluation evaluate(const Model& model, const EvaluateOptions& options,
                    const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace fovea
