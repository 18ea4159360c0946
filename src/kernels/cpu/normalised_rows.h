// Rows that a product normalises on the way, by instructions that processors with tiles of bf16 or int8 have.
#pragma once

#include <algorithm>

#include "kernels/cpu/gemm.h"

namespace fovea {

// Rows that GemmStage::row keeps meanwhile, each of k floats up to a whole vector.
constexpr int64_t normalised_rows_kept(int64_t k) {
  constexpr int64_t kBytes = 16 << 10, kFewest = 4, kMost = 32;  // of the first cache; a multiple of 4
  return std::clamp(kBytes / (4 * std::max<int64_t>(k, 1)) / kFewest * kFewest, kFewest, kMost);
}
// GemmStage with a gamma, in form kBF16 or kUint8. Memory behind a row is written up to a vector of the form.
void stage_normalised_rows(const GemmStage&);

}  // namespace fovea
