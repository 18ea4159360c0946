// Values of attention in pairs of keys, where the processor multiplies such (kernels/cpu/jit_attention.h).
#pragma once

#include <cstdint>

namespace fovea {

// out (pairs, head_dim in whole vectors of 16) = pairs of bfloat16, of one channel of two rows each: rows (count), which name rows of head_dim
// bfloat16, two by two. Zeros behind the last row and channel.
void pack_value_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out);

}  // namespace fovea
