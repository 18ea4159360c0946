// Rows of A that are normalised or rounded to bytes, by instructions that processors with tiles of bf16 or int8 have.
#pragma once

#include <algorithm>

#include "kernels/cpu/gemm.h"

namespace fovea {

// Rows that GemmStage::row keeps meanwhile, each of k floats up to a whole vector.
constexpr int64_t native_rows_kept(int64_t k) {
  constexpr int64_t kBytes = 16 << 10, kFewest = 4, kMost = 32;  // of the first cache; a multiple of 4
  return std::clamp(kBytes / (4 * std::max<int64_t>(k, 1)) / kFewest * kFewest, kFewest, kMost);
}
// GemmStage of floats with a gamma in form kF32, kBF16 or kUint8, or without one in form kUint8, of bfloat16 as well. Memory behind a row is written up to a
// vector of 16 elements. A row becomes bytes as round(x / scale) + 128, ties to even, with scale = max |x| / 127.
void stage_native_rows(const GemmStage&);
// Rows of k bfloat16 likewise, k a multiple of 16: to bytes k apart, and to their scales times `factor`. A row of zeros has scale 0, one that is not finite NaN.
void round_bf16_rows(const float* const* rows, int64_t count, int64_t k, float factor, uint8_t* out, float* scale);

}  // namespace fovea
