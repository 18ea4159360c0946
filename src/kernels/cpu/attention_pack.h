// Keys and values of attention in the form that generated tiles read (kernels/cpu/jit_attention.h), by AVX-512.
#pragma once

#include <cstdint>

namespace fovea {

// Row w of out, `stride` floats from the one before it, = word w (four bytes: a float, or a pair of channels) of up to 16 rows, zeros behind the last.
void transpose_words(const float* const* rows, int64_t count, int64_t words, float* out, int64_t stride);

// Of up to 16 rows of bytes, 128 being zero: transpose_words of the integers they are, and start (16) = -128 times the sum of each row's.
void pack_byte_keys(const float* const* rows, int64_t count, int64_t words, float* out, int64_t stride, int32_t* start);

// sum (rows) += the sums of the lanes of vectors (rows, 16).
void add_lane_sums(const float* vectors, int64_t rows, float* sum);

// Of rows of head_dim bfloat16: out (pairs, head_dim in whole vectors of 16) = a channel of rows 0 and 1, 2 and 3 ..., zeros behind the last row and channel.
void pack_value_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out);

}  // namespace fovea
