#include <gtest/gtest.h>

#include <cmath>

#include "embed/patch_embed.h"
#include "embed/resample.h"
#include "embed/token_embed.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

TEST(PatchEmbed, PatchesAndStems) {
  for (const bool stem : {false, true})
    for (const int64_t patch : {2, 4, 8})
      for (const bool norm : {false, true}) {
        SCOPED_TRACE(fmt::format("patch {} stem {} norm {}", patch, stem, norm));
        PatchEmbedConfig c;
        c.in_channels = 2;
        c.dim = 16;
        c.patch = patch;
        c.norm = norm;
        c.convolutional_stem = stem;
        const int64_t height = 2 * patch + 1, width = 2 * patch;
        ParamStore sizes;
        const PatchEmbed probe(Scope(sizes), c);
        const int64_t tokens = probe.out_height(height) * probe.out_width(width);
        EXPECT_EQ(probe.out_height(height), 3);
        harness::expect_right(harness::built<PatchEmbed>({{Shape{1, 2, height, width}},
                                                 {Shape{1, tokens, 16}},
                                                 [c](ParamStore& p) { return std::make_unique<PatchEmbed>(Scope(p), c); },
                                                 [](PatchEmbed& e, auto x, auto y, Tape* tape, Context& ctx) { e.forward(x[0], y[0], tape, ctx); },
                                                 [](PatchEmbed& e, auto dy, auto dx, Tape& tape, Context& ctx) {
                                                   e.backward(dy[0], dx[0], tape, ctx);
                                                 }}));
      }
}

TEST(TokenEmbed, PrefixTokensAndOtherSizes) {
  for (const bool prefix_positions : {true, false})
    for (const TokenGrid& grid : {TokenGrid{2, 4, 3, 4}, TokenGrid{2, 4, 5, 2}}) {
      SCOPED_TRACE(fmt::format("{} {}", prefix_positions, grid.str()));
      TokenEmbedConfig c;
      c.dim = 3;
      c.distillation_token = true;
      c.register_tokens = 2;
      c.grid_height = 3;
      c.grid_width = 4;
      c.prefix_positions = prefix_positions;
      harness::expect_right(harness::built<TokenEmbed>({{Shape{2, grid.height * grid.width, 3}},
                                               {Shape{2, grid.tokens(), 3}},
                                               [c](ParamStore& p) { return std::make_unique<TokenEmbed>(Scope(p), c); },
                                               [grid](TokenEmbed& e, auto x, auto y, Tape* tape, Context& ctx) {
                                                 e.forward(x[0], grid, y[0], tape, ctx);
                                               },
                                               [](TokenEmbed& e, auto dy, auto dx, Tape& tape, Context& ctx) {
                                                 e.backward(dy[0], dx[0], tape, ctx);
                                               }}));
    }
}

TEST(CubicWeights, RowsSumToOneAndTheSameSizeIsTheIdentity) {
  for (const bool antialias : {true, false})
    for (const auto& [from, to] : std::vector<std::pair<int64_t, int64_t>>{{4, 6}, {14, 7}, {7, 7}, {1, 5}, {37, 16}}) {
      const auto w = cubic_weights(from, to, -0.5, antialias);
      for (int64_t i = 0; i < to; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < from; ++j) {
          sum += w[static_cast<size_t>(i * from + j)];
          if (from == to) {
            EXPECT_NEAR(w[static_cast<size_t>(i * from + j)], i == j ? 1 : 0, 1e-15);
          }
        }
        EXPECT_NEAR(sum, 1, 1e-14) << from << " " << to;
      }
    }
}

}  // namespace
}  // namespace fovea
