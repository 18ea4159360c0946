// Keys and values of attention as pairs of bfloat16, where the processor multiplies such (kernels/cpu/jit_attention.h). Rows (count) name rows of
// head_dim numbers.
#pragma once

#include <cstdint>

namespace fovea {

// Row w of out, `stride` floats from the one before it, = pair w of channels of up to 16 rows, zeros behind the last.
void pack_key_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out, int64_t stride);

// out (pairs, head_dim in whole vectors of 16) = a channel of rows 0 and 1, 2 and 3 ..., zeros behind the last row and channel.
void pack_value_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out);

}  // namespace fovea
