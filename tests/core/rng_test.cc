#include "core/rng.h"

#include <gtest/gtest.h>

namespace fovea {
namespace {

// Known answers of Philox-4x32-10 from the authors' Random123 distribution (kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Rng, MomentsOfUniformAndNormal) {
  const Rng rng(7, 3);
  double mean_u = 0, mean_n = 0, var_n = 0;
  constexpr int kCount = 200000;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = rng.uniform(i), n = rng.normal(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    mean_u += u / kCount;
    mean_n += n / kCount;
    var_n += n * n / kCount;
  }
  EXPECT_NEAR(mean_u, 0.5, 0.003);
  EXPECT_NEAR(mean_n, 0, 0.01);
  EXPECT_NEAR(var_n, 1, 0.015);
}

TEST(Rng, ForksDifferAndRepeat) {
  const Rng rng(1);
  EXPECT_NE(rng.fork(1).bits(0), rng.fork(2).bits(0));
  EXPECT_EQ(rng.fork(1).bits(5), rng.fork(1).bits(5));
  EXPECT_NE(Rng(1).bits(0), Rng(2).bits(0));
}

}  // namespace
}  // namespace fovea
