// The integers that a row of numbers is rounded to in int8: round(x / scale), ties to even, with scale = max |x| / 127.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace fovea {

constexpr float kMostLevel = 127;

struct Levels {
  float scale, inverse;
};

// From the bits of the greatest magnitude: numbers without their signs are in the order of their bits, and what is not finite comes last. A row of
// zeros has 0 for both; one that is not finite has scale NaN, so that its products are.
inline Levels levels_of(uint32_t greatest_bits) {
  constexpr uint32_t kInfinity = 0x7f800000;
  if (greatest_bits >= kInfinity) return {std::numeric_limits<float>::quiet_NaN(), 0};
  float greatest;
  std::memcpy(&greatest, &greatest_bits, sizeof(greatest));
  return {greatest / kMostLevel, greatest > 0 ? kMostLevel / greatest : 0.0f};
}

}  // namespace fovea
