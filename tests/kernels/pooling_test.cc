#include "small_kernels.h"

namespace fovea::test {
namespace {

struct PoolingGeometry {
  int64_t channels, height, width, out_height, out_width;
};

void check(const PoolingGeometry& g, int64_t batch, int64_t gap) {
  AdaptivePoolArgs a{batch, g.channels, g.height, g.width, g.height * g.width * g.channels + gap, g.out_height, g.out_width};
  const int64_t in = batch * a.x_batch_stride, out = batch * g.out_height * g.out_width * g.channels;
  expect_like_reference(fmt::format("{}x{}x{} to {}x{}, batch {}", g.channels, g.height, g.width, g.out_height, g.out_width, batch),
                        [&](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, in, 1), dout = random_data(t.dtype, out, 2);
    Data pooled(t.dtype, out, 7), dx(t.dtype, in, 7);
    t.adaptive_pool(a, x.p(), pooled.p(), context);
    t.adaptive_pool_backward(a, dout.p(), dx.p(), context);
    // A sum of n terms of the size of x, n at most a bin's tokens, or the bins that hold a token.
    const double tokens = static_cast<double>((g.height / g.out_height + 2) * (g.width / g.out_width + 2));
    const double bins = static_cast<double>((g.out_height / g.height + 2) * (g.out_width / g.width + 2));
    return Outputs{{pooled, kEps * std::sqrt(tokens) * x.largest()}, {dx, kEps * 2 * bins * dout.largest()}};
  });
}

TEST(AdaptivePool, MatchesReference) {
  constexpr PoolingGeometry kPoolingGeometries[] = {{8, 9, 8, 7, 7},   {3, 14, 15, 7, 7}, {97, 7, 7, 7, 7}, {24, 1, 1, 7, 7},   {5, 3, 2, 7, 7},
                                      {64, 56, 57, 7, 7}, {1, 31, 1, 2, 1},  {16, 5, 9, 1, 1}, {33, 14, 14, 3, 5}};
  for (const PoolingGeometry& g : kPoolingGeometries)
    for (const int64_t batch : {0, 1, 3})
      for (const int64_t gap : {0, 11}) check(g, batch, gap);
}

// By hand: three columns in two bins overlap in the middle one.
TEST(AdaptivePool, BinsOverlap) {
  const KernelTable& table = kernel_table("reference");
  Context context(table, table.dtype, 1);
  const AdaptivePoolArgs a{1, 1, 1, 3, 3, 1, 2};
  const std::vector<double> x = {1, 3, 8}, dout = {2, 10};
  std::vector<double> out(2), dx(3);
  table.adaptive_pool(a, x.data(), out.data(), context);
  table.adaptive_pool_backward(a, dout.data(), dx.data(), context);
  EXPECT_EQ(out, (std::vector<double>{2, 5.5}));
  EXPECT_EQ(dx, (std::vector<double>{1, 6, 5}));
}

}  // namespace
}  // namespace fovea::test
