// What a run will take, from real steps on a model of its own, so that nothing of them reaches the run.
#pragma once

#include "image/loader.h"
#include "tasks/run_directory.h"

namespace fovea {

struct MeasuredCost {
  double seconds_per_batch = 0;             // of training, reading included
  double seconds_per_validation_batch = 0;
  double memory_mib = 0;                    // of the whole process with model, optimizer and loader
  int64_t parameters = 0;
  double batch_gflop = 0;                   // forward and backward of one batch

  double seconds_per_epoch(const RunConfig& run) const;
};

// Fills `cache` on the way.
MeasuredCost measure_cost(const RunConfig& run, const DataSplits& data, std::shared_ptr<ImageCache> cache, int threads);

}  // namespace fovea
