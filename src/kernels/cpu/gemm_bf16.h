// Roundings by the processor's own conversions, where it multiplies bf16 (TileType::kBF16). They take denormal numbers for zeros, as
// those products do.
#pragma once

#include "kernels/cpu/gemm.h"

namespace fovea {

// k floats to bfloat16, by whole vectors: what lies behind them in the last one is written as zeros.
void round_row_natively(const float* x, int64_t k, void* out);
// GemmPack of rows, in pairs.
void pack_rows_natively(const GemmPack&);

}  // namespace fovea
