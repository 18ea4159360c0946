// The page of a comparison of attentions, and its verdict in plain words.
#pragma once

#include <string>
#include <vector>

#include "report/scatter_chart.h"
#include "report/statistics.h"
#include "report/training_report.h"

namespace fovea::report {

struct Contender {
  std::string name;                 // the SPEC
  std::string explained;            // who meets whom, in words
  std::vector<double> top1;         // by seed, 0..1
  double epochs = kNotMeasured;     // mean over the seeds
  double train_images_per_s = kNotMeasured, train_seconds = kNotMeasured;  // means; seconds of one training
  int64_t parameters = 0;
  double gflop = kNotMeasured, ms_per_image = kNotMeasured, images_per_s = kNotMeasured;
  double inference_memory_mib = kNotMeasured, training_memory_mib = kNotMeasured;
  std::vector<CellMap> patterns;
};

struct GrowthCurve {
  size_t contender = 0;
  std::vector<double> size, ms, memory_mib;  // size: pixels of an image's side, or tokens
};

struct Comparison {
  std::string title, model, split;  // split: "test", "val"
  int64_t images = 0, seeds = 0;
  std::vector<Contender> contenders;
  std::vector<GrowthCurve> model_growth, attention_growth;
  std::vector<std::string> not_measured;            // sentences
  std::vector<std::string> equal, unequal;          // what was the same for all, and what was not
  std::vector<FactGroup> facts;
};

// Which contender to take and how sure that is; respects the spread: "not distinguishable" is an answer.
std::string verdict(const Comparison& comparison);

std::string render(const Comparison& comparison);

}  // namespace fovea::report
