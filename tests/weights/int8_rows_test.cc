#include "weights/int8_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace fovea {
namespace {

// What products in int8 make of a row of weights (docs/numerics.md).
struct Rounded {
  float scale;
  std::vector<int> integers;
};
Rounded rounded(const std::vector<float>& row) {
  float largest = 0;
  for (const float x : row) largest = std::max(largest, std::fabs(x));
  Rounded r{largest / 127, {}};
  for (const float x : row) r.integers.push_back(static_cast<int>(std::nearbyint(x * (largest > 0 ? 127 / largest : 0.0f))));
  return r;
}

// Reading gives weights that round to the same integers and to the very same scale, whatever the largest magnitude is.
TEST(Int8Rows, RoundTripKeepsEveryBit) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 20000; ++trial) {
    std::vector<float> row(17);
    for (float& x : row) x = normal(random) * std::exp2(static_cast<float>(trial % 40 - 20));
    const Rounded expected = rounded(row);
    std::vector<int8_t> integers(row.size());
    const float scale = write_int8_row(row.data(), 17, integers.data());
    ASSERT_EQ(std::memcmp(&scale, &expected.scale, sizeof(scale)), 0) << trial;
    std::vector<float> back(integers.begin(), integers.end());
    read_int8_row(scale, 17, back.data());
    const Rounded again = rounded(back);
    ASSERT_EQ(std::memcmp(&again.scale, &scale, sizeof(scale)), 0) << trial;
    for (size_t i = 0; i < row.size(); ++i) {
      ASSERT_EQ(integers[i], expected.integers[i]);
      ASSERT_EQ(again.integers[i], expected.integers[i]);
      ASSERT_LE(std::fabs(back[i] - row[i]), 0.5001f * scale);
    }
  }
}

// For every float of a binade as the largest magnitude.
TEST(Int8Rows, TheScaleComesBackFromEveryMagnitude) {
  for (float largest = 1; largest < 2; largest = std::nextafter(largest, 2.0f)) {
    float weight = 127;
    const float scale = largest / 127;
    read_int8_row(scale, 1, &weight);
    ASSERT_EQ(weight / 127, scale) << largest;
  }
}

TEST(Int8Rows, ZerosStayZeros) {
  const std::vector<float> row(5, 0.0f);
  std::vector<int8_t> integers(5, 1);
  EXPECT_EQ(write_int8_row(row.data(), 5, integers.data()), 0.0f);
  std::vector<float> back(integers.begin(), integers.end());
  read_int8_row(0, 5, back.data());
  EXPECT_EQ(back, row);
}

}  // namespace
}  // namespace fovea
