// Rows as the bytes that integer tiles multiply, by instructions that processors with such tiles have (TileType::kInt8).
#pragma once

#include <cstdint>

namespace fovea {

// x (k) as round(x / scale) + 128, ties to even, with scale = max |x| / 127, which is returned. Bytes behind the last are written up to
// a whole vector of 16. A row of zeros has scale 0; one that is not finite has NaN and bytes of no meaning.
float row_to_bytes(const float* x, int64_t k, uint8_t* out);
float row_to_bytes(const uint16_t* x /* bfloat16 */, int64_t k, uint8_t* out);
// The same where 1 / scale is known, as kMostLevel / max |x|.
constexpr float kMostLevel = 127;
void levels_to_bytes(const float* x, float inverse, int64_t k, uint8_t* out);

}  // namespace fovea
