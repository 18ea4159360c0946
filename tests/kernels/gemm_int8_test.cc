#include "kernels/cpu/gemm_int8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/rng.h"
#include "kernels/cpu/jit.h"

namespace fovea {
namespace {

float widened(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

class RowToBytes : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (jit_gemm_kernel(Isa::kAvx512, 1, 1, AOrder::kRows, TileType::kInt8) == nullptr) GTEST_SKIP() << "no integer tiles here";
  }
  bool in_bf16() const { return GetParam(); }

  // Bytes behind k keep their mark beyond the vector of the last.
  void expect_row(const std::vector<float>& x) {
    const int64_t k = std::ssize(x), written = (k + 15) / 16 * 16;
    std::vector<float> in = x;  // and numbers behind it that nobody reads
    in.resize(x.size() + 64, 1e9f);
    std::vector<uint16_t> halves;
    for (const float v : in) halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
    std::vector<uint8_t> out(static_cast<size_t>(written + 64), uint8_t{7});
    const float scale = in_bf16() ? row_to_bytes(halves.data(), k, out.data()) : row_to_bytes(in.data(), k, out.data());
    float greatest = 0;
    for (const float v : x) greatest = std::max(greatest, std::fabs(v));
    ASSERT_EQ(scale, greatest / 127) << k;
    for (size_t i = 0; i < x.size(); ++i) {
      const float level = std::fma(x[i], greatest > 0 ? 127 / greatest : 0.0f, 0x1.8p23F) - 0x1.8p23F;  // rounded once
      ASSERT_EQ(out[i], static_cast<int>(level) + 128) << "element " << i << " of " << k;
    }
    for (size_t i = x.size(); i < static_cast<size_t>(written); ++i) ASSERT_EQ(out[i], 128) << "behind " << k;
    for (size_t i = static_cast<size_t>(written); i < out.size(); ++i) ASSERT_EQ(out[i], 7) << "behind " << k;
  }
};

std::vector<float> bf16_numbers(int64_t k, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x;
  for (int64_t i = 0; i < k; ++i) x.push_back(widened(static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(rng.next_normal())) >> 16)));
  return x;
}

TEST_P(RowToBytes, EveryLengthAndPlaceOfTheGreatest) {
  for (int64_t k = 1; k <= 200; ++k) {
    std::vector<float> x = bf16_numbers(k, static_cast<uint64_t>(k));
    expect_row(x);
    x[static_cast<size_t>(k * 7 % k)] = -16;
    x[static_cast<size_t>((k * 5 + 3) % k)] = 32;
    expect_row(x);
    x.assign(static_cast<size_t>(k), 0.5f);
    x.back() = -64;
    expect_row(x);
  }
}

TEST_P(RowToBytes, ZerosAndWhatIsNotFinite) {
  expect_row(std::vector<float>(70));
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const size_t at : {size_t{0}, size_t{33}, size_t{64}, size_t{69}}) {
      std::vector<float> x = bf16_numbers(70, 3);
      x[at] = bad;
      std::vector<uint16_t> halves;
      for (const float v : x) halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
      std::vector<uint8_t> out(144);
      EXPECT_TRUE(std::isnan(in_bf16() ? row_to_bytes(halves.data(), 70, out.data()) : row_to_bytes(x.data(), 70, out.data())));
    }
}

INSTANTIATE_TEST_SUITE_P(Types, RowToBytes, testing::Bool(), [](const auto& p) { return p.param ? "bf16" : "f32"; });

}  // namespace
}  // namespace fovea
