#include "weights/int8_rows.h"

#include <algorithm>
#include <cmath>

namespace fovea {

namespace {

constexpr float kLevels = 127;

template <class T>
void read_row(float scale, int64_t count, T* weights) {
  // In floats (127 · scale) / 127 is scale again where scale itself came of such a quotient.
  const float largest = kLevels * scale;
  for (int64_t i = 0; i < count; ++i) weights[i] = static_cast<T>(largest * (static_cast<float>(weights[i]) / kLevels));
}

}  // namespace

float write_int8_row(const float* weights, int64_t count, int8_t* integers) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(weights[i]));
  const float inverse = largest > 0 ? kLevels / largest : 0.0f;
  for (int64_t i = 0; i < count; ++i) integers[i] = static_cast<int8_t>(std::lrint(std::clamp(weights[i] * inverse, -kLevels, kLevels)));
  return largest / kLevels;
}

void read_int8_row(float scale, int64_t count, float* weights) { read_row(scale, count, weights); }
void read_int8_row(float scale, int64_t count, double* weights) { read_row(scale, count, weights); }

}  // namespace fovea
