// Weights in int8, as files keep them. The weight NAME (out, ...) holds integers of [-127, 127]; beside it stands NAME_scale (out) in
// f32, and a weight is integer · scale of its output. An output's scale is the largest magnitude of its weights / 127; integers are the
// nearest, ties to even. These are the numbers that products in int8 round the plain weight to (docs/numerics.md), so packing what
// read_int8_rows gives yields them again, bit by bit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fovea {

inline constexpr std::string_view kInt8ScaleSuffix = "_scale";
inline std::string int8_scale_name(std::string_view weight) { return std::string(weight) + std::string(kInt8ScaleSuffix); }

// One output's weights, all finite, to integers; returns its scale.
float write_int8_row(const float* weights, int64_t count, int8_t* integers);

// Integers (as floats or doubles, in place) to weights. The 127th part of the largest is the scale again.
void read_int8_row(float scale, int64_t count, float* weights);
void read_int8_row(float scale, int64_t count, double* weights);

}  // namespace fovea
