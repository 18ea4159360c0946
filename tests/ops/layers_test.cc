// Gradients of the layers for inputs and every parameter, and all tables against the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"
#include "ops/conv2d.h"
#include "ops/layer_norm.h"
#include "ops/linear.h"
#include "ops/pack_weights.h"

namespace fovea {
namespace {

harness::LayerFactory linear(int64_t rows, int64_t in, int64_t out, Bias bias) {
  return harness::built<Linear>({{Shape{rows, in}},
                                 {Shape{rows, out}},
                                 [=](ParamStore& p) { return std::make_unique<Linear>(Scope(p) / "fc", in, out, bias); },
                                 [](Linear& l, auto x, auto y, Tape* tape, Context& ctx) { l.forward(x[0], y[0], tape, ctx); },
                                 [](Linear& l, auto dy, auto dx, Tape& tape, Context& ctx) {
                                   l.backward(dy[0], dx[0], Accumulate::kNo, tape, ctx);
                                 }});
}

TEST(Linear, GradientsAndTables) {
  for (const auto& [rows, in, out] : std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {3, 5, 2}, {31, 24, 33}, {49, 7, 80}})
    for (const Bias bias : {Bias::kYes, Bias::kNo}) {
      SCOPED_TRACE(fmt::format("{} {} {}", rows, in, out));
      harness::expect_right(linear(rows, in, out, bias));
    }
}

TEST(Linear, PackedWeightsGiveTheSameBits) {
  for (const KernelTable* table : harness::f32_tables()) {
    ParamStore p;
    const Linear layer(Scope(p) / "fc", 37, 45, Bias::kYes);
    p.allocate(table->dtype, ParamStore::Gradients::kNo);
    harness::randomise(p, Rng(1));
    Context ctx(*table, table->dtype, 2);
    const auto x = harness::random_tensor(Shape{29, 37}, Rng(2), table->dtype);
    harness::HostTensor plain(Shape{29, 45}, table->dtype), packed(plain.shape, table->dtype);
    layer.forward(x, plain, nullptr, ctx);
    pack_weights(p, ctx);
    ASSERT_NE(layer.weight().packed, nullptr);
    layer.forward(x, packed, nullptr, ctx);
    harness::expect_same_bits(packed, plain, std::string(table->name));
    p.drop_packed();
    EXPECT_EQ(layer.weight().packed, nullptr);
  }
}

TEST(Linear, PackedWeightsKnowWhatFollows) {
  const KernelTable& table = kernel_table("auto");
  ParamStore p;
  const Linear first(Scope(p) / "fc1", 37, 45, Bias::kYes), last(Scope(p) / "fc2", 45, 10, Bias::kNo);
  p.allocate(table.dtype, ParamStore::Gradients::kNo);
  harness::randomise(p, Rng(1));
  Context ctx(table, table.dtype, 1);
  EXPECT_EQ(weights_after(first.weight()).data, nullptr);
  pack_weights(p, ctx, ProductType::kInt8);
  const PackedMatrix next = weights_after(first.weight());
  EXPECT_EQ(next.data, last.weight().packed);
  EXPECT_EQ(next.type, ProductType::kInt8);
  EXPECT_EQ(next.k, 45);
  EXPECT_EQ(next.n, 10);
  EXPECT_EQ(weights_after(last.weight()).data, nullptr);
  p.drop_packed();
  EXPECT_EQ(weights_after(first.weight()).data, nullptr);
}

// Forward, dx, dW and db in bf16: every table against the reference, whose operands are rounded likewise, and the reference against
// exact products by what two roundings of half a unit of 2^-8 make of a product.
TEST(Linear, InBf16) {
  const int64_t rows = 61, in = 37, out = 45;
  struct Results {
    harness::HostTensor y, dx;
    std::vector<double> dw, db;
  };
  const auto run = [&](const KernelTable& table, ProductType type, bool magnitudes) {
    ParamStore p;
    const Linear layer(Scope(p) / "fc", in, out, Bias::kYes);
    p.allocate(table.dtype, ParamStore::Gradients::kYes);
    harness::randomise(p, Rng(1));
    Context ctx(table, table.dtype, 2);
    ctx.set_products(type);
    auto x = harness::random_tensor(Shape{rows, in}, Rng(2), table.dtype), dy = harness::random_tensor(Shape{rows, out}, Rng(3), table.dtype);
    const auto absolute = [](const Tensor& t) {
      for (int64_t i = 0; i < t.elements(); ++i) store_scalar(t, i, std::abs(load_scalar(t, i)));
    };
    if (magnitudes) {
      absolute(x);
      absolute(dy);
      for (const Param& param : p.params()) absolute(param.value);
    }
    Results r{harness::HostTensor(Shape{rows, out}, table.dtype), harness::HostTensor(Shape{rows, in}, table.dtype), {}, {}};
    Tape tape;
    layer.forward(x, r.y, &tape, ctx);
    layer.backward(dy, r.dx, Accumulate::kNo, tape, ctx);
    for (int64_t i = 0; i < out * in; ++i) r.dw.push_back(load_scalar(layer.weight().grad, i));
    for (int64_t i = 0; i < out; ++i) r.db.push_back(load_scalar(layer.bias()->grad, i));
    return r;
  };
  const KernelTable& reference = kernel_table("reference");
  const Results exact = run(reference, ProductType::kOwn, false), rounded = run(reference, ProductType::kBF16, false),
                sizes = run(reference, ProductType::kOwn, true);
  constexpr double kTwoRoundings = 2 * 0x1p-9 + 0x1p-18;
  const double kEps = std::numeric_limits<float>::epsilon();
  const auto compare = [](double got, double expected, double tolerance, const char* what, int64_t i) {
    EXPECT_NEAR(got, expected, tolerance) << what << " " << i;
  };
  for (int64_t i = 0; i < rows * out; ++i) compare(load_scalar(rounded.y, i), load_scalar(exact.y, i), kTwoRoundings * load_scalar(sizes.y, i), "y", i);
  for (int64_t i = 0; i < rows * in; ++i) compare(load_scalar(rounded.dx, i), load_scalar(exact.dx, i), kTwoRoundings * load_scalar(sizes.dx, i), "dx", i);
  for (size_t i = 0; i < exact.dw.size(); ++i) compare(rounded.dw[i], exact.dw[i], kTwoRoundings * sizes.dw[i], "dW", static_cast<int64_t>(i));
  EXPECT_EQ(rounded.db, exact.db);  // no product
  EXPECT_NE(rounded.dw, exact.dw);
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(table->name);
    const Results r = run(*table, ProductType::kBF16, false);
    const auto sums = [&](double size) { return 8 * kEps * std::sqrt(static_cast<double>(rows)) * size; };
    for (int64_t i = 0; i < rows * out; ++i) compare(load_scalar(r.y, i), load_scalar(rounded.y, i), sums(load_scalar(sizes.y, i)), "y", i);
    for (int64_t i = 0; i < rows * in; ++i) compare(load_scalar(r.dx, i), load_scalar(rounded.dx, i), sums(load_scalar(sizes.dx, i)), "dx", i);
    for (size_t i = 0; i < r.dw.size(); ++i) compare(r.dw[i], rounded.dw[i], sums(sizes.dw[i]), "dW", static_cast<int64_t>(i));
    for (size_t i = 0; i < r.db.size(); ++i) compare(r.db[i], rounded.db[i], sums(sizes.db[i]), "db", static_cast<int64_t>(i));
  }
}

TEST(Linear, AWrongWidthIsNamed) {
  ParamStore p;
  const Linear layer(Scope(p) / "fc", 4, 2, Bias::kYes);
  p.allocate(DType::kF64, ParamStore::Gradients::kNo);
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  const harness::HostTensor x(Shape{3, 5}, DType::kF64), y(Shape{3, 2}, DType::kF64);
  EXPECT_THROW(layer.forward(x, y, nullptr, ctx), Error);
}

TEST(LayerNorm, GradientsAndTables) {
  for (const auto& [rows, channels] : std::vector<std::array<int64_t, 2>>{{1, 3}, {5, 24}, {49, 33}, {3, 97}}) {
    SCOPED_TRACE(fmt::format("{} x {}", rows, channels));
    const int64_t c = channels;
    const Shape shape{rows, c};
    harness::expect_right(harness::built<LayerNorm>({{shape},
                                            {shape},
                                            [c](ParamStore& p) { return std::make_unique<LayerNorm>(Scope(p) / "norm", c, 1e-5); },
                                            [](LayerNorm& l, auto x, auto y, Tape* tape, Context& ctx) { l.forward(x[0], y[0], tape, ctx); },
                                            [](LayerNorm& l, auto dy, auto dx, Tape& tape, Context& ctx) {
                                              l.backward(dy[0], dx[0], Accumulate::kNo, tape, ctx);
                                            }}));
  }
}

harness::LayerFactory convolution(const Conv2dShape& s, MapLayout layout, int64_t batch, int64_t height, int64_t width) {
  const auto make = [=](ParamStore& p) { return std::make_unique<Conv2d>(Scope(p) / "conv", s, Bias::kYes, layout); };
  ParamStore sizes;
  const auto probe = make(sizes);
  const Shape in = layout == MapLayout::kChannelsFirst ? Shape{batch, s.in, height, width} : Shape{batch, height, width, s.in};
  return harness::built<Conv2d>({{in},
                                 {Shape{batch, probe->out_height(height), probe->out_width(width), s.out}},
                                 make,
                                 [](Conv2d& l, auto x, auto y, Tape* tape, Context& ctx) { l.forward(x[0], y[0], tape, ctx); },
                                 [](Conv2d& l, auto dy, auto dx, Tape& tape, Context& ctx) { l.backward(dy[0], dx[0], tape, ctx); }});
}

TEST(Conv2d, GradientsAndTables) {
  const Conv2dShape patches{3, 5, 4, 4, 4, 4, 0, true}, stem{2, 4, 3, 3, 2, 2, 1, false}, same{2, 3, 3, 3, 1, 1, 1, false};
  for (const MapLayout layout : {MapLayout::kChannelsFirst, MapLayout::kChannelsLast}) {
    harness::expect_right(convolution(patches, layout, 2, 8, 12));
    harness::expect_right(convolution(patches, layout, 1, 9, 7));  // rests at both borders
    harness::expect_right(convolution(stem, layout, 2, 7, 8));
    harness::expect_right(convolution(same, layout, 1, 5, 4));
  }
}

// An inference goes over the lines of the map in bands, each thread over its own: the same bits as the whole map at once, then the norm.
TEST(Conv2d, InfersInBandsWhatItComputesAtOnce) {
  struct Case {
    Conv2dShape shape;
    MapLayout layout;
    int64_t batch, height, width;
  };
  const std::vector<Case> cases = {{{3, 5, 4, 4, 4, 4, 0, true}, MapLayout::kChannelsFirst, 3, 61, 57},
                                   {{2, 6, 3, 3, 2, 2, 1, false}, MapLayout::kChannelsLast, 2, 41, 37},
                                   {{3, 4, 7, 7, 4, 4, 2, false}, MapLayout::kChannelsFirst, 1, 24, 1201},  // lines longer than a band
                                   {{3, 4, 4, 4, 4, 4, 0, true}, MapLayout::kChannelsFirst, 1, 9, 7}};      // too little to share out
  for (const KernelTable* table : harness::f32_tables())
    for (const Case& c : cases)
      for (const int threads : {1, 2, 3}) {
        SCOPED_TRACE(fmt::format("{} {}x{} {} threads", table->name, c.height, c.width, threads));
        ParamStore p;
        const Conv2d conv(Scope(p) / "conv", c.shape, Bias::kYes, c.layout);
        const LayerNorm norm(Scope(p) / "norm", c.shape.out, 1e-5);
        p.allocate(table->dtype, ParamStore::Gradients::kNo);
        harness::randomise(p, Rng(1));
        const Shape in = c.layout == MapLayout::kChannelsFirst ? Shape{c.batch, c.shape.in, c.height, c.width} : Shape{c.batch, c.height, c.width, c.shape.in};
        const Shape out{c.batch, conv.out_height(c.height), conv.out_width(c.width), c.shape.out};
        const auto x = harness::random_tensor(in, Rng(2), table->dtype);
        const harness::HostTensor at_once(out, table->dtype), normed(out, table->dtype), alone(out, table->dtype), together(out, table->dtype);
        Context ctx(*table, table->dtype, threads);
        conv.forward(x, at_once, nullptr, ctx);
        norm.forward(at_once, normed, nullptr, ctx);
        conv.infer(x, nullptr, alone, ctx);
        conv.infer(x, &norm, together, ctx);
        harness::expect_same_bits(alone, at_once, "without a norm");
        harness::expect_same_bits(together, normed, "with a norm");
      }
}

TEST(Conv2d, SizesOfOddMaps) {
  ParamStore p;
  const Conv2d covering(Scope(p) / "a", {3, 4, 4, 4, 4, 4, 0, true}, Bias::kNo, MapLayout::kChannelsFirst);
  EXPECT_EQ(covering.out_height(224), 56);
  EXPECT_EQ(covering.out_height(225), 57);
  EXPECT_EQ(covering.out_height(3), 1);
  const Conv2d strict(Scope(p) / "b", {3, 4, 3, 3, 2, 2, 1, false}, Bias::kNo, MapLayout::kChannelsFirst);
  EXPECT_EQ(strict.out_height(28), 14);
  EXPECT_EQ(strict.out_height(29), 15);
}

}  // namespace
}  // namespace fovea
