#include "kernels/cpu/native_rows.h"

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

class RowsToBytes : public testing::TestWithParam<bool> {
 protected:
  static constexpr int64_t kRows = 5, kBehind = 64;  // more than go side by side; numbers behind a row that nobody reads, and bytes that nobody writes
  void SetUp() override {
    if (jit_gemm_kernel(Isa::kAvx512, 1, 1, AOrder::kRows, TileType::kInt8) == nullptr) GTEST_SKIP() << "no integer tiles here";
  }
  bool in_bf16() const { return GetParam(); }

  struct Bytes {
    int64_t stride;
    std::vector<uint8_t> bytes;
    std::vector<float> scale;
  };
  // Of rows x · 2^i.
  Bytes staged(const std::vector<float>& x) const {
    const int64_t k = std::ssize(x), a_stride = k + kBehind;
    std::vector<float> in;
    std::vector<uint16_t> halves;
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t j = 0; j < a_stride; ++j) in.push_back(j < k ? std::ldexp(x[static_cast<size_t>(j)], static_cast<int>(i)) : 1e9f);
    for (const float v : in) halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
    Bytes out;
    out.stride = (k + 15) / 16 * 16 + kBehind;
    out.bytes.assign(static_cast<size_t>(kRows * out.stride), 7);
    out.scale.assign(kRows, -1.0f);
    GemmStage s;
    s.form = OperandForm::kUint8;
    s.rows = kRows;
    s.k = k;
    s.a = in_bf16() ? reinterpret_cast<const float*>(halves.data()) : in.data();
    s.a_bf16 = in_bf16();
    s.a_stride = a_stride;
    s.out = reinterpret_cast<float*>(out.bytes.data());
    s.out_stride = out.stride / 4;
    s.scale = out.scale.data();
    stage_native_rows(s);
    return out;
  }

  // Bytes behind k keep their mark beyond the vector of the last.
  void expect_rows(const std::vector<float>& x) const {
    const int64_t k = std::ssize(x), written = (k + 15) / 16 * 16;
    const Bytes got = staged(x);
    for (int64_t i = 0; i < kRows; ++i) {
      const float factor = std::ldexp(1.0f, static_cast<int>(i));
      const uint8_t* row = got.bytes.data() + i * got.stride;
      float greatest = 0;
      for (const float v : x) greatest = std::max(greatest, std::fabs(v * factor));
      ASSERT_EQ(got.scale[static_cast<size_t>(i)], greatest / 127) << k;
      for (int64_t j = 0; j < k; ++j) {
        const float level = std::fma(x[static_cast<size_t>(j)] * factor, greatest > 0 ? 127 / greatest : 0.0f, 0x1.8p23F) - 0x1.8p23F;  // rounded once
        ASSERT_EQ(row[j], static_cast<int>(level) + 128) << "element " << j << " of " << k;
      }
      for (int64_t j = k; j < written; ++j) ASSERT_EQ(row[j], 128) << "behind " << k;
      for (int64_t j = written; j < got.stride; ++j) ASSERT_EQ(row[j], 7) << "behind " << k;
    }
  }
};

std::vector<float> bf16_numbers(int64_t k, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x;
  for (int64_t i = 0; i < k; ++i) x.push_back(widened(static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(rng.next_normal())) >> 16)));
  return x;
}

TEST_P(RowsToBytes, EveryLengthAndPlaceOfTheGreatest) {
  for (int64_t k = 1; k <= 200; ++k) {
    std::vector<float> x = bf16_numbers(k, static_cast<uint64_t>(k));
    expect_rows(x);
    x[static_cast<size_t>(k * 7 % k)] = -16;
    x[static_cast<size_t>((k * 5 + 3) % k)] = 32;
    expect_rows(x);
    x.assign(static_cast<size_t>(k), 0.5f);
    x.back() = -64;
    expect_rows(x);
  }
}

TEST_P(RowsToBytes, ZerosAndWhatIsNotFinite) {
  expect_rows(std::vector<float>(70));
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const size_t at : {size_t{0}, size_t{33}, size_t{64}, size_t{69}}) {
      std::vector<float> x = bf16_numbers(70, 3);
      x[at] = bad;
      for (const float scale : staged(x).scale) EXPECT_TRUE(std::isnan(scale));
    }
}

INSTANTIATE_TEST_SUITE_P(Types, RowsToBytes, testing::Bool(), [](const auto& p) { return p.param ? "bf16" : "f32"; });

}  // namespace
}  // namespace fovea
