// What fovea compare measures beside accuracy: cost, growth with the input, and who influences whom.
#pragma once

#include "fovea/compare.h"
#include "models/config.h"

namespace fovea {

// Inference and a training step of `config` at batch `batch`, on the context's own accounts of memory.
CompareCost measure_contender(const ModelConfig& config, int64_t batch, const ExecutionOptions& execution);

// One image of height x width pixels through the whole model. `budget_s`: a pass expected to take longer is not made.
struct GrowthMeasurement {
  double ms = 0, memory_mib = 0;
};
GrowthMeasurement measure_model_at(const ModelConfig& config, int64_t height, int64_t width, const ExecutionOptions& execution);
// The attention alone, forward and backward, batch 1, in the heads of the model's first stage.
GrowthMeasurement measure_attention_at(const ModelConfig& config, int64_t height, int64_t width, const ExecutionOptions& execution);

// Reasons why the model cannot take images of that size, or the attention such a map, or an empty list.
std::vector<std::string> model_unsupported(const ModelConfig& config, int64_t height, int64_t width);
std::vector<std::string> attention_unsupported(const ModelConfig& config, int64_t height, int64_t width);

// How strongly each token of a small map influences the output of the token `query` in a block of the first stage: the norm
// of the gradient, relative to the largest of the other tokens; exactly 0 where there is no influence. Random weights.
std::vector<double> influence(const ModelConfig& config, int64_t block, int64_t height, int64_t width, int64_t query);

}  // namespace fovea
