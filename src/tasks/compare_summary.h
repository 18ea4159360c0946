// From the results of a comparison to its files: report.html, trials.csv, contenders.csv, compare.json.
#pragma once

#include "fovea/compare.h"
#include "models/config.h"

namespace fovea {

// Writes them into result.out and returns the verdict. `configs` by contender.
std::string write_comparison(const CompareResult& result, const std::vector<ModelConfig>& configs, const CompareOptions& options);

}  // namespace fovea
