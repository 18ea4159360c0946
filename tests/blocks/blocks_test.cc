#include <gtest/gtest.h>

#include <memory>

#include "blocks/conv_merging.h"
#include "blocks/mlp.h"
#include "blocks/patch_merging.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

BlockConfig block(const std::string& attention, int64_t dim, int64_t heads) {
  BlockConfig b;
  b.attention = parse_attention(attention);
  b.heads.dim = dim;
  b.heads.heads = heads;
  b.heads.block = 1;
  b.mlp_hidden = 3 * dim;
  return b;
}

TEST(TransformerBlock, EveryNormPlacementAndActivation) {
  for (const NormPlacement placement : {NormPlacement::kPre, NormPlacement::kPost, NormPlacement::kResPost})
    for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh}) {
      SCOPED_TRACE(fmt::format("placement {} activation {}", static_cast<int>(placement), static_cast<int>(activation)));
      BlockConfig b = block("window:size=3", 6, 2);
      b.norm = placement;
      b.activation = activation;
      harness::expect_right(harness::block_layer(b, {2, 0, 4, 5}));
    }
}

TEST(TransformerBlock, ParallelBranchesUnderEveryAttentionWithPlaces) {
  for (const char* attention : {"global", "window:size=3", "local:window=4"}) {
    SCOPED_TRACE(attention);
    BlockConfig b = block(attention, 6, 2);
    b.parallel = 2;
    harness::expect_right(harness::block_layer(b, {2, 0, 4, 5}));
  }
}

TEST(TransformerBlock, LayerScale) {
  BlockConfig b = block("global", 6, 3);
  b.layer_scale = 0.3;
  harness::expect_right(harness::block_layer(b, {2, 1, 2, 3}));
}

// Dropout and stochastic depth are functions of the step's random numbers, so the oracle sees one fixed function.
TEST(TransformerBlock, DropoutAndStochasticDepthInTraining) {
  for (const double layer_scale : {0.0, 0.5})
    for (const double dropout : {0.0, 0.25})
      for (const double drop_path : {0.0, 0.4}) {
        SCOPED_TRACE(fmt::format("layer_scale {} dropout {} drop_path {}", layer_scale, dropout, drop_path));
        BlockConfig b = block("global", 4, 2);
        b.layer_scale = layer_scale;
        b.dropout = dropout;
        b.drop_path = drop_path;
        b.parallel = drop_path > 0 ? 2 : 1;
        // Without a tape training mode is not run: inference and recording forwards agree only in evaluation.
        harness::OracleOptions o;
        o.training = true;
        harness::expect_adjoint(harness::block_layer(b, {12, 0, 2, 3}), o);
      }
}

TEST(TransformerBlock, StochasticDepthDropsWholeSamplesAtItsRate) {
  BlockConfig b = block("global", 4, 1);
  b.drop_path = 0.5;
  ParamStore params;
  const TransformerBlock layer(Scope(params), b);
  params.allocate(DType::kF64, ParamStore::Gradients::kNo);
  harness::randomise(params, Rng(1));
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  ctx.set_training(true, Rng(3));
  const int64_t batch = 400;
  const auto x = harness::random_tensor(Shape{batch, 2, 4}, Rng(2), DType::kF64);
  harness::HostTensor y(x.shape, x.dtype);
  AttentionInputs in;
  in.x = x;
  in.grid = {batch, 0, 1, 2};
  layer.forward(in, y, nullptr, ctx);
  int unchanged = 0;
  for (int64_t i = 0; i < batch; ++i) unchanged += std::memcmp(x.slice(i, 1).data, y.slice(i, 1).data, 8 * sizeof(double)) == 0;
  EXPECT_NEAR(unchanged / 400.0, 0.25, 0.07);  // both branches dropped
}

TEST(PatchMerging, EvenAndOddMapsNormsOnEitherSide) {
  for (const MergingNorm norm : {MergingNorm::kBefore, MergingNorm::kAfter})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 4, 6}, TokenGrid{1, 0, 5, 3}, TokenGrid{1, 0, 1, 1}}) {
      SCOPED_TRACE(grid.str());
      const TokenGrid to = PatchMerging::merged(grid);
      harness::expect_right(harness::built<PatchMerging>({{Shape{grid.batch, grid.tokens(), 3}},
                                                 {Shape{to.batch, to.tokens(), 6}},
                                                 [=](ParamStore& p) { return std::make_unique<PatchMerging>(Scope(p), 3, 1e-5, norm); },
                                                 [grid](PatchMerging& m, auto x, auto y, Tape* tape, Context& ctx) {
                                                   m.forward(x[0], grid, y[0], tape, ctx);
                                                 },
                                                 [](PatchMerging& m, auto dy, auto dx, Tape& tape, Context& ctx) {
                                                   m.backward(dy[0], dx[0], tape, ctx);
                                                 }}));
    }
}

TEST(ConvMerging, EvenAndOddMaps) {
  for (const TokenGrid& grid : {TokenGrid{2, 0, 4, 6}, TokenGrid{1, 0, 5, 3}, TokenGrid{1, 0, 1, 1}}) {
    SCOPED_TRACE(grid.str());
    const TokenGrid to = ConvMerging::merged(grid);
    harness::expect_right(harness::built<ConvMerging>({{Shape{grid.batch, grid.tokens(), 3}},
                                              {Shape{to.batch, to.tokens(), 5}},
                                              [](ParamStore& p) { return std::make_unique<ConvMerging>(Scope(p), 3, 5, 1e-5); },
                                              [grid](ConvMerging& m, auto x, auto y, Tape* tape, Context& ctx) {
                                                m.forward(x[0], grid, y[0], tape, ctx);
                                              },
                                              [](ConvMerging& m, auto dy, auto dx, Tape& tape, Context& ctx) {
                                                m.backward(dy[0], dx[0], tape, ctx);
                                              }}));
  }
}

TEST(TransformerBlock, TheAttentionStandsWhereItsScopeSays) {
  ParamStore inside, beside;
  BlockConfig b = block("global", 4, 2);
  const TransformerBlock plain(Scope(inside), b);
  b.attention_scope = "";
  const TransformerBlock flat(Scope(beside), b);
  EXPECT_NE(inside.find("attn.qkv.weight"), nullptr);
  EXPECT_NE(beside.find("qkv.weight"), nullptr);
  EXPECT_EQ(inside.count(), beside.count());
}

// More hidden values than a training step of the perceptron takes at a time.
TEST(Mlp, ManyRowsGoInSteps) {
  const int64_t rows = 4301, dim = 3, hidden = 490;
  harness::expect_adjoint(harness::built<Mlp>({{Shape{rows, dim}},
                                               {Shape{rows, dim}},
                                               [=](ParamStore& p) { return std::make_unique<Mlp>(Scope(p) / "mlp", dim, hidden, Activation::kGelu); },
                                               [](Mlp& m, auto x, auto y, Tape* tape, Context& ctx) { m.forward(x[0], nullptr, {}, y[0], tape, ctx); },
                                               [](Mlp& m, auto dy, auto dx, Tape& tape, Context& ctx) {
                                                 dx[0].zero();
                                                 m.backward(dy[0], nullptr, dx[0], tape, ctx);
                                               }}));
}

}  // namespace
}  // namespace fovea
