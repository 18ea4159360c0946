// Layer normalisation of every table against the double reference.
#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

// Errors of a normalised row: the sums' (about sqrt(C) eps of typical terms; C eps is the bound), times |n| <= sqrt(C).
double norm_tolerance(int64_t channels, double gamma) {
  return (8 + std::sqrt(static_cast<double>(channels))) * kEps * gamma * 4;
}

void check_forward(int64_t rows, int64_t channels, bool affine, bool in_place, double shift, bool statistics = true) {
  expect_like_reference(fmt::format("layer_norm {} x {} affine {} in place {} statistics {}", rows, channels, affine, in_place, statistics),
                        [&](const KernelTable& t, Context& context) {
    Data x = random_data(t.dtype, rows * channels, 1, 2.0, shift);
    const Data gamma = random_data(t.dtype, channels, 2), beta = random_data(t.dtype, channels, 3);
    Data y(t.dtype, rows * channels), mean(t.dtype, rows), rstd(t.dtype, rows);
    LayerNormArgs a;
    a.channels = channels;
    // A row of one channel has no variance: its rounding error is divided by sqrt(epsilon).
    a.epsilon = channels < 3 ? 1.0 : 1e-5;
    a.x_rows = a.y_rows = RowLayout::contiguous(rows, channels);
    a.x = x.p();
    a.y = in_place ? x.p() : y.p();
    if (affine) {
      a.gamma = gamma.p();
      a.beta = beta.p();
    }
    if (statistics) {
      a.mean = mean.p();
      a.rstd = rstd.p();
    }
    t.layer_norm(a, context);
    const double magnitude = 1 + std::fabs(shift);
    const double tolerance = norm_tolerance(channels, affine ? 1 + gamma.largest() : 1) * magnitude * (channels == 3 ? 20 : 1);
    if (!statistics) return Outputs{{in_place ? x : y, tolerance}};
    return Outputs{{in_place ? x : y, tolerance},
                   {mean, 4 * (2 + magnitude) * kEps},
                   {rstd, rstd.largest() * tolerance}};
  });
}

TEST(LayerNorm, MatchesReference) {
  for (int64_t channels : kChannelSweep)
    for (int64_t rows : kRowSweep)
      for (const bool statistics : {false, true}) check_forward(rows, channels, true, (rows % 2 == 0) == statistics, 0.5, statistics);
  for (const bool in_place : {false, true})
    for (const int64_t channels : {48, 96}) check_forward(37, channels, true, in_place, 0.5, false);
  check_forward(197, 96, false, false, 0);
  check_forward(5, 97, false, true, 0);
  check_forward(0, 96, true, false, 0);
}

TEST(LayerNorm, KeepsPrecisionFarFromZero) {
  for (const bool statistics : {false, true}) check_forward(7, 96, true, false, 300, statistics);
}

TEST(LayerNorm, GivesStatisticsOnly) {
  expect_like_reference("statistics", [](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, 50 * 97, 1);
    Data mean(t.dtype, 50), rstd(t.dtype, 50);
    LayerNormArgs a;
    a.channels = 97;
    a.x_rows = RowLayout::contiguous(50, 97);
    a.x = x.p();
    a.mean = mean.p();
    a.rstd = rstd.p();
    t.layer_norm(a, context);
    return Outputs{{mean, 4 * kEps}, {rstd, 16 * kEps}};
  });
}

// The heads of q in a fused (B N, 3, H, D) buffer, normalised in place: k and v stay as they are.
TEST(LayerNorm, FollowsStrides) {
  for (int64_t head_dim : {24, 32, 80})
    expect_like_reference(fmt::format("heads of {}", head_dim), [&](const KernelTable& t, Context& context) {
      const int64_t tokens = 31, heads = 3;
      Data qkv = random_data(t.dtype, tokens * 3 * heads * head_dim, 1);
      const Data gamma = random_data(t.dtype, head_dim, 2);
      LayerNormArgs a;
      a.channels = head_dim;
      a.x_rows = a.y_rows = {tokens, heads, 3 * heads * head_dim, head_dim};
      a.x = a.y = qkv.p();
      a.gamma = gamma.p();
      t.layer_norm(a, context);
      return Outputs{{qkv, norm_tolerance(head_dim, 1 + gamma.largest())}};
    });
}

// A row's bits do not depend on which rows are taken with it.
TEST(LayerNorm, TreatsRowsAlike) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    const int64_t channels = 97;
    Data x = random_data(t.dtype, 7 * channels, 1);
    Data together(t.dtype, 7 * channels), apart(t.dtype, 7 * channels);
    LayerNormArgs a;
    a.channels = channels;
    a.x_rows = a.y_rows = RowLayout::contiguous(7, channels);
    a.x = x.p();
    a.y = together.p();
    t.layer_norm(a, context);
    a.x_rows = a.y_rows = RowLayout::contiguous(1, channels);
    for (int64_t r = 0; r < 7; ++r) {
      a.x = x.at(r * channels);
      a.y = apart.at(r * channels);
      t.layer_norm(a, context);
    }
    EXPECT_TRUE(apart.same_bits(together));
  });
}

void check_backward(int64_t rows, int64_t channels, bool affine, bool accumulate, bool in_place) {
  expect_like_reference(fmt::format("layer_norm_backward {} x {}", rows, channels), [&](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, rows * channels, 1);
    Data dy = random_data(t.dtype, rows * channels, 4);
    const Data gamma = random_data(t.dtype, channels, 2);
    Data dx = random_data(t.dtype, rows * channels, 5);
    Data dgamma = random_data(t.dtype, channels, 6), dbeta = random_data(t.dtype, channels, 7);
    Data mean(t.dtype, rows), rstd(t.dtype, rows);
    for (int64_t r = 0; r < rows; ++r) {  // any statistics will do for the formula
      mean.set(r, 0.125 * static_cast<double>(r % 5));
      rstd.set(r, 0.5 + 0.25 * static_cast<double>(r % 3));
    }
    LayerNormBackwardArgs a;
    a.channels = channels;
    a.x_rows = a.dy_rows = a.dx_rows = RowLayout::contiguous(rows, channels);
    a.x = x.p();
    a.mean = mean.p();
    a.rstd = rstd.p();
    a.dy = dy.p();
    a.dx = in_place ? dy.p() : dx.p();
    a.accumulate_dx = accumulate;
    if (affine) {
      a.gamma = gamma.p();
      a.dgamma = dgamma.p();
      a.dbeta = dbeta.p();
    }
    t.layer_norm_backward(a, context);
    const double sums = (8 + std::sqrt(static_cast<double>(channels))) * kEps * 16 * (1 + gamma.largest());
    const double columns = (8 + static_cast<double>(rows)) * kEps * 8;
    return Outputs{{in_place ? dy : dx, sums}, {dgamma, columns}, {dbeta, columns}};
  });
}

TEST(LayerNorm, BackwardMatchesReference) {
  for (int64_t channels : kChannelSweep)
    for (int64_t rows : kRowSweep) check_backward(rows, channels, true, rows % 2 == 1, rows == 2);
  check_backward(197, 96, false, false, false);
  check_backward(0, 96, true, false, false);
  check_backward(2001, 33, true, false, false);
}

TEST(LayerNorm, PassesNaNOn) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data x = random_data(t.dtype, 4 * 32, 1);
    x.set(40, std::nan(""));
    LayerNormArgs a;
    a.channels = 32;
    a.x_rows = a.y_rows = RowLayout::contiguous(4, 32);
    a.x = a.y = x.p();
    t.layer_norm(a, context);
    for (int64_t i = 0; i < x.count(); ++i) EXPECT_EQ(std::isnan(x.get(i)), i / 32 == 1);
  });
}

}  // namespace
}  // namespace fovea::test
