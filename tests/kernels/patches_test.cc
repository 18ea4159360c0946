#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

struct Geometry {
  int64_t channels, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
};

void check(const Geometry& g, int64_t batch, bool channels_last) {
  PatchesArgs a;
  a.batch = batch;
  a.channels = g.channels;
  a.height = g.height;
  a.width = g.width;
  a.x_channel_stride = channels_last ? 1 : g.height * g.width;
  a.x_column_stride = channels_last ? g.channels : 1;
  a.x_row_stride = a.x_column_stride * g.width;
  a.x_batch_stride = g.channels * g.height * g.width;
  a.kernel_h = g.kernel_h;
  a.kernel_w = g.kernel_w;
  a.stride_h = g.stride_h;
  a.stride_w = g.stride_w;
  a.pad_top = g.pad_top;
  a.pad_left = g.pad_left;
  // The last window may hang over the edge, as with a right padding.
  a.out_height = (g.height + 2 * g.pad_top - g.kernel_h) / g.stride_h + 1;
  a.out_width = (g.width + 2 * g.pad_left - g.kernel_w) / g.stride_w + 1;
  const int64_t in = batch * a.x_batch_stride;
  const int64_t out = batch * a.out_height * a.out_width * g.channels * g.kernel_h * g.kernel_w;
  expect_like_reference(fmt::format("patches {}x{} of {}x{}x{} stride {}x{} {}", g.kernel_h, g.kernel_w, g.channels, g.height,
                                    g.width, g.stride_h, g.stride_w, channels_last ? "NHWC" : "NCHW"),
                        [&](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, in, 1), dout = random_data(t.dtype, out, 2);
    Data patches(t.dtype, out, 7), dx(t.dtype, in, 7);
    t.patches(a, x.p(), patches.p(), context);
    t.patches_backward(a, dout.p(), dx.p(), context);
    const double overlaps = static_cast<double>(g.kernel_h * g.kernel_w);
    return Outputs{{patches, 0}, {dx, overlaps * kEps * 4}};
  });
}

constexpr Geometry kGeometries[] = {
    {3, 32, 32, 4, 4, 4, 4, 0, 0},   {3, 33, 35, 4, 4, 4, 4, 0, 0}, {3, 48, 32, 16, 16, 16, 16, 0, 0},
    {5, 14, 15, 3, 3, 1, 1, 1, 1},   {97, 7, 7, 3, 3, 2, 2, 1, 1},  {3, 56, 57, 7, 7, 4, 4, 2, 2},
    {24, 14, 15, 2, 2, 2, 2, 0, 0},  {1, 1, 1, 3, 3, 1, 1, 1, 1},   {2, 9, 12, 2, 5, 3, 2, 1, 3},
    {3, 6, 5, 4, 4, 4, 4, 1, 2},     {4, 5, 5, 1, 1, 1, 1, 0, 0},   {1, 3, 3, 8, 8, 2, 2, 5, 5},
};

TEST(Patches, MatchReference) {
  for (const Geometry& g : kGeometries)
    for (bool channels_last : {false, true})
      for (int64_t batch : {0, 1, 3}) check(g, batch, channels_last);
}

TEST(Patches, OfAnImageBatch) { check({3, 112, 112, 4, 4, 4, 4, 0, 0}, 2, false); }

}  // namespace
}  // namespace fovea::test
