#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

struct Geometry {
  int64_t height, width, block_h, block_w, top, left;
};

// Rows lie inside a wider buffer, as v does in a fused qkv; `skips` leaves tokens out; the residual is y itself or another buffer.
void check(const Geometry& g, int64_t batch, int64_t channels, bool skips, bool in_place) {
  const int64_t tokens = g.height * g.width, stride = 3 * channels + 1, all = batch * tokens * stride;
  std::vector<uint8_t> skip(static_cast<size_t>(batch * tokens));
  for (size_t i = 0; i < skip.size(); ++i) skip[i] = Rng(11).bits(i) % 4 == 0;
  expect_like_reference(fmt::format("depthwise {}x{} blocks {}x{} from {},{} of {} x {} channels{}{}", g.height, g.width, g.block_h, g.block_w,
                                    g.top, g.left, batch, channels, skips ? ", skips" : "", in_place ? ", in place" : ""),
                        [&](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, all, 1), weight = random_data(t.dtype, 9 * channels, 2), bias = random_data(t.dtype, channels, 3);
    const Data residual = random_data(t.dtype, all, 4), dy = random_data(t.dtype, all, 5);
    Data y = in_place ? residual : Data(t.dtype, all, 7), dx = random_data(t.dtype, all, 6);
    Data dweight = random_data(t.dtype, 9 * channels, 7), dbias = random_data(t.dtype, channels, 8);
    const auto view = [&](const Data& d) { return ConstHeadsView(d.p(), tokens * stride, stride, 0); };
    const auto out = [&](Data& d) { return HeadsView{d.p(), tokens * stride, stride, 0}; };
    Depthwise3x3BackwardArgs b;
    Depthwise3x3Args& a = b.forward;
    a.batch = batch;
    a.channels = channels;
    a.height = g.height;
    a.width = g.width;
    a.block_h = g.block_h;
    a.block_w = g.block_w;
    a.block_top = g.top;
    a.block_left = g.left;
    a.x = view(x);
    a.weight = weight.p();
    a.bias = bias.p();
    if (skips) a.skip = skip.data();
    a.skip_batch_stride = tokens;
    a.residual = in_place ? ConstHeadsView(out(y)) : view(residual);
    a.y = out(y);
    t.depthwise3x3(a, context);
    b.dy = view(dy);
    b.dx = out(dx);
    b.dweight = dweight.p();
    b.dbias = dbias.p();
    t.depthwise3x3_backward(b, context);
    // Ten or eleven roundings of sums of nine products; sums over all tokens round as a random walk does.
    const double nine = 11 * kEps * 9 * weight.largest() * std::max(x.largest(), dy.largest());
    const double walk = 4 * kEps * (2 + std::sqrt(static_cast<double>(batch * tokens))) * dy.largest();
    return Outputs{{y, nine}, {dx, nine}, {dweight, walk * std::max(1.0, x.largest())}, {dbias, walk}};
  });
}

constexpr Geometry kGeometries[] = {
    {1, 1, 1, 1, 0, 0},    {5, 5, 5, 5, 0, 0},    {20, 16, 20, 1, 0, 0}, {12, 15, 2, 15, 0, 0}, {14, 14, 14, 7, 0, 0},
    {7, 10, 7, 3, 0, 1},   {7, 10, 3, 10, 1, 0},  {6, 9, 6, 4, 0, 1},    {9, 5, 4, 5, 1, 0},    {3, 2, 7, 2, 2, 0},
    {1, 33, 1, 4, 0, 1},   {33, 1, 33, 4, 0, 1},  {8, 12, 4, 4, 0, 0},
};

TEST(Depthwise, MatchesReference) {
  for (const Geometry& g : kGeometries)
    for (int64_t channels : {1, 3, 24, 97})
      for (bool skips : {false, true}) check(g, 2, channels, skips, channels % 2 == 0);
}

TEST(Depthwise, EveryWidthAndAnEmptyBatch) {
  for (int64_t channels : kChannelSweep) check({7, 10, 7, 3, 0, 1}, 3, channels, false, true);
  check({7, 10, 7, 3, 0, 1}, 0, 8, false, false);
}

// A tap beyond a block's border reads nothing: a change in the next stripe is not seen.
TEST(Depthwise, StripesDoNotLookAcrossTheirBorders) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data x(t.dtype, 16), weight(t.dtype, 9, 1), y(t.dtype, 16, 7);
    x.set(5, 1.0);  // row 1, column 1 of a 4x4 map
    Depthwise3x3Args a;
    a.batch = a.channels = 1;
    a.height = a.width = a.block_h = 4;
    a.block_w = 2;
    a.x = {x.p(), 16, 1, 0};
    a.weight = weight.p();
    a.y = {y.p(), 16, 1, 0};
    t.depthwise3x3(a, context);
    for (int64_t i = 0; i < 16; ++i) EXPECT_EQ(y.get(i), i % 4 < 2 && i < 12 ? 1 : 0) << i;
  });
}

// No residual, no bias, and gradients of which only some are wanted.
TEST(Depthwise, WhatIsNotWantedIsLeftOut) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    const Data x = random_data(t.dtype, 5 * 6 * 8, 1), weight = random_data(t.dtype, 72, 2), dy = random_data(t.dtype, 5 * 6 * 8, 3);
    Depthwise3x3BackwardArgs b;
    b.forward.batch = 1;
    b.forward.channels = 8;
    b.forward.height = b.forward.block_h = 5;
    b.forward.width = b.forward.block_w = 6;
    b.forward.x = {x.p(), 240, 8, 0};
    b.forward.weight = weight.p();
    b.dy = {dy.p(), 240, 8, 0};
    Data all_dx(t.dtype, 240), all_dw(t.dtype, 72), all_db(t.dtype, 8), dx(t.dtype, 240), dw(t.dtype, 72), db(t.dtype, 8);
    const auto run = [&](Data* to_x, Data* to_w, Data* to_b) {
      b.dx = {to_x ? to_x->p() : nullptr, 240, 8, 0};
      b.dweight = to_w ? to_w->p() : nullptr;
      b.dbias = to_b ? to_b->p() : nullptr;
      t.depthwise3x3_backward(b, context);
    };
    run(&all_dx, &all_dw, &all_db);
    run(&dx, nullptr, nullptr);
    run(nullptr, &dw, nullptr);
    run(nullptr, nullptr, &db);
    EXPECT_TRUE(dx.same_bits(all_dx));
    EXPECT_TRUE(dw.same_bits(all_dw));
    EXPECT_TRUE(db.same_bits(all_db));
  });
}

}  // namespace
}  // namespace fovea::test
