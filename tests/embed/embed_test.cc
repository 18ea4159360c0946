#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

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

TEST(PatchEmbed, LeavesOutWhatIsNoWholePatch) {
  PatchEmbedConfig c;
  c.in_channels = 2;
  c.dim = 5;
  c.bias = false;
  c.drop_rest = true;
  ParamStore sizes;
  const PatchEmbed probe(Scope(sizes), c);
  EXPECT_EQ(probe.out_height(11), 2);
  EXPECT_EQ(probe.out_width(3), 0);
  EXPECT_EQ(sizes.find("proj.bias"), nullptr);
  harness::expect_right(harness::built<PatchEmbed>({{Shape{2, 2, 11, 13}},
                                                    {Shape{2, 2 * 3, 5}},
                                                    [c](ParamStore& p) { return std::make_unique<PatchEmbed>(Scope(p), c); },
                                                    [](PatchEmbed& e, auto x, auto y, Tape* tape, Context& ctx) { e.forward(x[0], y[0], tape, ctx); },
                                                    [](PatchEmbed& e, auto dy, auto dx, Tape& tape, Context& ctx) { e.backward(dy[0], dx[0], tape, ctx); }}));
}

enum class Rows { kAll, kClassAndPatches, kPatches };

TEST(TokenEmbed, PrefixTokensAndOtherSizes) {
  for (const Rows rows : {Rows::kAll, Rows::kClassAndPatches, Rows::kPatches})
    for (const TokenGrid& grid : {TokenGrid{2, 4, 3, 4}, TokenGrid{2, 4, 5, 2}}) {
      SCOPED_TRACE(fmt::format("{} {}", static_cast<int>(rows), grid.str()));
      TokenEmbedConfig c;
      c.dim = 3;
      c.distillation_token = true;
      c.register_tokens = 2;
      c.grid_height = 3;
      c.grid_width = 4;
      c.prefix_positions = rows != Rows::kPatches;
      c.register_positions = rows == Rows::kAll;
      if (rows == Rows::kClassAndPatches) c.resampling = cubic_rule_named("bicubic_corners");
      EXPECT_EQ(c.table_prefix(), rows == Rows::kAll ? 4 : rows == Rows::kPatches ? 0 : 2);
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
  for (const char* rule : {"antialiased", "bicubic", "bicubic_corners", "bicubic_offset"})
    for (const auto& [from, to] : std::vector<std::pair<int64_t, int64_t>>{{4, 6}, {14, 7}, {7, 7}, {1, 5}, {5, 1}, {37, 16}}) {
      const auto w = cubic_weights(from, to, cubic_rule_named(rule));
      for (int64_t i = 0; i < to; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < from; ++j) {
          sum += w[static_cast<size_t>(i * from + j)];
          if (from == to && std::string(rule) != "bicubic_offset") {
            EXPECT_NEAR(w[static_cast<size_t>(i * from + j)], i == j ? 1 : 0, 1e-15);
          }
        }
        EXPECT_NEAR(sum, 1, 1e-14) << from << " " << to;
      }
    }
}

// What PyTorch's interpolate(mode="bicubic") makes of [[1, 2, 4, 8]] on seven (antialias off; align_corners off and on; scale_factor
// 7.1 / 4) and on three (antialias on) samples.
TEST(CubicWeights, AreThoseOfTheirCodeBases) {
  const auto resampled = [](const char* rule, int64_t to) {
    const auto w = cubic_weights(4, to, cubic_rule_named(rule));
    std::vector<double> y;
    for (int64_t i = 0; i < to; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < 4; ++j) sum += w[static_cast<size_t>(i * 4 + j)] * std::exp2(static_cast<double>(j));
      y.push_back(sum);
    }
    return y;
  };
  const auto expect = [](const std::vector<double>& got, const std::vector<double>& wanted) {
    ASSERT_EQ(got.size(), wanted.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-12) << i;
  };
  expect(resampled("bicubic", 7), {0.900783527696793, 1.21774781341108, 1.85040087463557, 2.71875, 4.32124635568513, 6.76002186588921, 8.39686588921283});
  expect(resampled("bicubic_corners", 7), {1, 1.3125, 2, 2.71875, 4, 6.1875, 8});
  expect(resampled("bicubic_offset", 7), {0.899953043494053, 1.21058639577996, 1.8121046503181, 2.68260938124283, 4.15842887617313, 6.58642075124822, 8.34125418050856});
  expect(resampled("antialiased", 3), {1.13272311212815, 2.89439655172414, 7.12585812356979});
  expect(resampled("antialiased", 7), {0.920673076923077, 1.22569149838792, 1.89329212870387, 2.8125, 4.24250136338847, 6.86814865094179, 8.31730769230769});
}

TEST(CubicWeights, AnUnknownRuleNamesTheKnownOnes) {
  try {
    (void)cubic_rule_named("nearest");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("antialiased, bicubic, bicubic_corners or bicubic_offset"), std::string::npos);
  }
}

}  // namespace
}  // namespace fovea
