// Token shift and rotary positions.
#include <gtest/gtest.h>

#include <cmath>

#include "harness/expect.h"
#include "harness/layers.h"
#include "ops/rotary.h"
#include "ops/token_shift.h"

namespace fovea {
namespace {

harness::LayerFactory shift_layer(const std::vector<int64_t>& shifts, const Shape& shape, const uint8_t* padding) {
  return harness::built<TokenShift>({{shape},
                                     {shape},
                                     [=](ParamStore&) { return std::make_unique<TokenShift>(shifts); },
                                     [=](TokenShift& s, auto x, auto y, Tape* tape, Context& ctx) { s.forward(x[0], y[0], padding, tape, ctx); },
                                     [](TokenShift& s, auto dy, auto dx, Tape& tape, Context& ctx) { s.backward(dy[0], dx[0], tape, ctx); }});
}

TEST(TokenShift, GradientsAndTables) {
  std::vector<uint8_t> padding(3 * 6, 0);
  padding[2] = padding[9] = 1;
  for (const std::vector<int64_t>& shifts : std::vector<std::vector<int64_t>>{{0, 1, -1}, {1, -1}, {2}, {0, 0}, {5, -20, 0}})
    for (const int64_t channels : {7, 12, 5}) {
      harness::expect_right(shift_layer(shifts, Shape{3, 6, channels}, nullptr));
      harness::expect_right(shift_layer(shifts, Shape{3, 6, channels}, padding.data()));
    }
}

TEST(TokenShift, MovesSegmentsByHand) {
  harness::for_each_table([](const KernelTable& table) {
    Context ctx(table, table.dtype, 1);
    const auto x = harness::tensor_of(Shape{1, 3, 3}, table.dtype, {1, 2, 3, 4, 5, 6, 7, 8, 9});
    harness::HostTensor y(x.shape, x.dtype);
    const uint8_t padding[] = {0, 1, 0};
    TokenShift({1, -1}).forward(x, y, nullptr, nullptr, ctx);
    EXPECT_EQ(harness::to_doubles(y), (std::vector<double>{0, 5, 3, 1, 8, 6, 4, 0, 9}));
    TokenShift({1, 0}).forward(x, y, padding, nullptr, ctx);
    EXPECT_EQ(harness::to_doubles(y), (std::vector<double>{0, 2, 3, 1, 5, 6, 0, 8, 9}));
  });
}

harness::LayerFactory rotary_layer(const Shape& shape, int64_t first) {
  return harness::built<Rotary>({{shape},
                                 {shape},
                                 [](ParamStore&) { return std::make_unique<Rotary>(); },
                                 [=](Rotary& r, auto x, auto y, Tape*, Context& ctx) { r.forward(x[0], first, y[0], ctx); },
                                 [=](Rotary& r, auto dy, auto dx, Tape&, Context& ctx) { r.backward(dy[0], first, dx[0], ctx); }});
}

TEST(Rotary, GradientsAndTables) {
  harness::expect_right(rotary_layer(Shape{2, 7, 3, 6}, 0));
  harness::expect_right(rotary_layer(Shape{1, 1, 1, 2}, 5));
  harness::expect_right(rotary_layer(Shape{1, 33, 2, 80}, -3));
}

// Products of turned rows depend on the difference of positions alone, and lengths stay.
TEST(Rotary, ProductsSeeDifferences) {
  const KernelTable& table = kernel_table("reference");
  Context ctx(table, table.dtype, 1);
  const auto one = harness::random_tensor(Shape{1, 1, 1, 8}, Rng(1), table.dtype), other = harness::random_tensor(one.shape, Rng(2), table.dtype);
  const auto product = [&](int64_t p, int64_t q) {
    harness::HostTensor a(one.shape, one.dtype), b(one.shape, one.dtype);
    Rotary().forward(one, p, a, ctx);
    Rotary().forward(other, q, b, ctx);
    double sum = 0;
    for (int64_t i = 0; i < 8; ++i) sum += harness::value_at(a, i) * harness::value_at(b, i);
    return sum;
  };
  EXPECT_NEAR(product(3, 10), product(0, 7), 1e-12);
  EXPECT_NEAR(product(4, 4), product(0, 0), 1e-12);
  EXPECT_GT(std::fabs(product(0, 1) - product(0, 2)), 1e-3);
  harness::HostTensor odd(Shape{1, 1, 1, 3}, table.dtype), y(odd.shape, odd.dtype);
  EXPECT_THROW(Rotary().forward(odd, 0, y, ctx), Error);
}

}  // namespace
}  // namespace fovea
