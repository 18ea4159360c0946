#include "attention/regional.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/global.h"
#include "blocks/regional_block.h"
#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

CellGrid cell_grid(int64_t samples, int64_t depth, int64_t height, int64_t width, const std::vector<int32_t>& cells) {
  return {samples, depth, height, width, cells.data(), std::ssize(cells) / 4};
}

TokenGrid grid_of(const CellGrid& cells) {
  TokenGrid g{1, 0, 1, cells.count};
  g.cells = &cells;
  return g;
}

// Distinct random cells of a grid, a third of them occupied.
std::vector<int32_t> some_cells(int64_t samples, int64_t depth, int64_t height, int64_t width) {
  std::vector<int32_t> cells;
  const Rng rng(4);
  uint64_t i = 0;
  for (int32_t s = 0; s < samples; ++s)
    for (int32_t z = 0; z < depth; ++z)
      for (int32_t y = 0; y < height; ++y)
        for (int32_t x = 0; x < width; ++x)
          if (rng.uniform(i++) < 0.33) cells.insert(cells.end(), {s, z, y, x});
  return cells;
}

TEST(Regions, CellsFallIntoWindowsByHand) {
  // One row of seven cells, windows of three: 012 345 6, and moved by one 01 234 56.
  const std::vector<int32_t> cells = {0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 1, 0, 0, 6};
  const CellGrid g = cell_grid(2, 1, 1, 7, cells);
  Regions r;
  find_regions(grid_of(g), {1, 1, 3, false}, r);
  EXPECT_EQ(r.cell, (std::vector<int32_t>{0, 2, 0, 0}));
  EXPECT_EQ(r.window[0], r.window[1]);
  EXPECT_NE(r.window[1], r.window[2]);
  EXPECT_NE(r.window[2], r.window[3]);
  find_regions(grid_of(g), {1, 1, 3, true}, r);
  EXPECT_EQ(r.cell, (std::vector<int32_t>{1, 0, 1, 1}));
  EXPECT_NE(r.window[0], r.window[1]);
  EXPECT_EQ(r.window[1], r.window[2]);
  const CellGrid outside = cell_grid(1, 1, 1, 7, cells);
  EXPECT_THROW(find_regions(grid_of(outside), {1, 1, 3, false}, r), Error);
}

TEST(Regions, EveryTokenOfAMapStandsInExactlyOneWindow) {
  for (const auto& [h, w] : std::vector<std::pair<int64_t, int64_t>>{{12, 12}, {14, 15}, {1, 1}, {7, 30}})
    for (const bool shifted : {false, true})
      for (const int64_t prefix : {0, 2}) {
        const TokenGrid grid{1, prefix, h, w};
        Regions r;
        find_regions(grid, {1, 5, 4, shifted}, r);
        std::vector<int32_t> order;
        TokenGroups g;
        build_region_groups(grid, r, order, g);
        std::vector<int> seen(static_cast<size_t>(grid.tokens()), 0);
        for (const auto& group : g.groups)
          for (int32_t run = group.query_runs; run < group.query_runs_end; ++run)
            for (int32_t i = 0; i < g.runs[static_cast<size_t>(run)].count; ++i)
              ++seen[static_cast<size_t>(g.runs[static_cast<size_t>(run)].begin + i)];
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), grid.tokens());
        EXPECT_EQ(g.query_slots, grid.tokens());
        double pairs = 0;
        for (const auto& group : g.groups) pairs += static_cast<double>(group.queries) * static_cast<double>(group.keys);
        RegionalConfig config;
        config.region = {1, 5, 4, shifted};
        EXPECT_EQ(RegionalGeometry(AttentionConfig(), config).pairs(grid), pairs);
      }
}

TEST(Regions, DroppingKeepsTheFirstCellsOfAWindow) {
  // Six cells in a row, windows of four: 0123 45; at most three stay, and of one alone all. Moved by two: 01 2345.
  const std::vector<int32_t> cells = {0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5};
  const CellGrid g = cell_grid(1, 1, 1, 6, cells);
  EXPECT_EQ(drop_cells(g, {1, 1, 4, false}, {{2, 0, 3}, {3, 3, 100}}), (std::vector<int32_t>{0, 1, 2, 4, 5}));
  EXPECT_EQ(drop_cells(g, {1, 1, 4, false}, {{2, 0, 100}}), (std::vector<int32_t>{0, 1, 4, 5}));
  EXPECT_EQ(drop_cells(g, {1, 1, 4, false}, {{9, 0, 100}}).size(), 6u);
  EXPECT_THROW(drop_cells(g, {1, 1, 4, false}, {{9, 0, 4}}), Error);
}

TEST(Regions, PlacesAreSinusoidsOfTheDistanceFromTheCentre) {
  RegionalConfig c;
  c.region = {1, 2, 4, false};
  const auto p = region_positions(c, 5);  // two for x, two for y, one zero
  ASSERT_EQ(p.size(), 8u * 5);
  const double* row = p.data() + 7 * 5;  // y 1, x 3
  EXPECT_NEAR(row[0], std::sin(1.0), 1e-15);
  EXPECT_NEAR(row[1], std::cos(1.0), 1e-15);
  EXPECT_NEAR(row[2], std::sin(0.0), 1e-15);
  EXPECT_NEAR(row[3], std::cos(0.0), 1e-15);
  EXPECT_EQ(row[4], 0);
}

// Windows on occupied cells are dense attention under the mask "same window", with places added to q and k.
TEST(RegionalAttention, EqualsDenseAttentionInTheSameWindow) {
  const std::vector<int32_t> occupied = some_cells(2, 3, 7, 8);
  const CellGrid cells = cell_grid(2, 3, 7, 8, occupied);
  const int64_t n = cells.count, dim = 12;
  harness::for_each_table([&](const KernelTable& table) {
    for (const bool shifted : {false, true}) {
      RegionalConfig rc;
      rc.region = {2, 3, 4, shifted};
      const AttentionConfig c = harness::attention_config(dim, 3);
      AttentionConfig cross = c;
      cross.cross = true;
      ParamStore rp, gp;
      const RegionalAttention regional(Scope(rp), c, rc);
      const GlobalAttention global(Scope(gp), cross);
      rp.allocate(table.dtype, ParamStore::Gradients::kNo);
      gp.allocate(table.dtype, ParamStore::Gradients::kNo);
      harness::randomise(rp, Rng(2));
      int64_t first = 0;
      for (const char* part : {"q", "k", "v"}) {
        for (const char* kind : {".weight", ".bias"})
          std::memcpy(gp.find(std::string(part) + kind)->value.data, rp.find(std::string("qkv") + kind)->value.slice(first, dim).data,
                      gp.find(std::string(part) + kind)->value.bytes());
        first += dim;
      }
      for (const char* name : {"proj.weight", "proj.bias"}) std::memcpy(gp.find(name)->value.data, rp.find(name)->value.data, gp.find(name)->value.bytes());

      Context ctx(table, table.dtype, 1);
      const HostTensor x = harness::random_tensor(Shape{1, n, dim}, Rng(3), table.dtype);
      HostTensor placed = harness::copy_of(x), mask(Shape{1, 1, n, n}, table.dtype), a(x.shape, x.dtype), b(x.shape, x.dtype);
      Regions r;
      find_regions(grid_of(cells), rc.region, r);
      const auto positions = region_positions(rc, dim);
      for (int64_t i = 0; i < n; ++i) {
        const auto row = static_cast<size_t>(i);
        for (int64_t d = 0; d < dim; ++d)
          store_scalar(placed, i * dim + d, load_scalar(x, i * dim + d) + positions[static_cast<size_t>(r.cell[row] * dim + d)]);
        for (int64_t j = 0; j < n; ++j) store_scalar(mask, i * n + j, r.window[row] == r.window[static_cast<size_t>(j)] ? 0 : -INFINITY);
      }
      AttentionInputs in;
      in.x = x;
      in.grid = grid_of(cells);
      regional.forward(in, a, nullptr, ctx);
      AttentionInputs dense;
      dense.x = placed;
      dense.key_input = placed;
      dense.value_input = x;
      dense.grid = {1, 0, 1, n};
      dense.mask = mask;
      global.forward(dense, b, nullptr, ctx);
      harness::expect_close(a, b, harness::Tolerance::relative(table.dtype == DType::kF64 ? 1e-12 : 5e-6), "output");
    }
  });
}

// Two blocks on occupied cells: each layer finds its groups again in the backward.
TEST(RegionalBlock, Gradients) {
  static const std::vector<int32_t> occupied = some_cells(2, 2, 5, 6);
  static const CellGrid cells = cell_grid(2, 2, 5, 6, occupied);
  for (const NormPlacement norm : {NormPlacement::kPost, NormPlacement::kPre}) {
    BlockConfig b;
    b.heads = harness::attention_config(6, 2);
    b.mlp_hidden = 10;
    b.norm = norm;
    RegionalConfig r;
    r.region = {2, 3, 3, false};
    r.normalise = norm == NormPlacement::kPre;
    const Shape shape{1, cells.count, 6};
    const auto layer = harness::built<RegionalBlock>({{shape},
                                                      {shape},
                                                      [=](ParamStore& p) { return std::make_unique<RegionalBlock>(Scope(p), b, r); },
                                                      [](RegionalBlock& block, auto in, auto out, Tape* tape, Context& ctx) {
                                                        AttentionInputs inputs;
                                                        inputs.x = in[0];
                                                        inputs.grid = grid_of(cells);
                                                        block.forward(inputs, out[0], tape, ctx);
                                                      },
                                                      [](RegionalBlock& block, auto dout, auto din, Tape& tape, Context& ctx) {
                                                        std::memcpy(din[0].data, dout[0].data, din[0].bytes());
                                                        block.backward(din[0], tape, ctx);
                                                      }});
    harness::expect_adjoint(layer);
    for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
  }
}

TEST(RegionalAttention, GradientsOnMaps) {
  for (const char* options : {"window=3x4", "window=4:normalise=yes:temperature=100", "window=3:cosine=yes"})
    for (const int64_t block : {0, 1})
      for (const TokenGrid& grid : {TokenGrid{2, 0, 7, 9}, TokenGrid{2, 2, 3, 5}}) {
        AttentionConfig c = harness::attention_config(6, 2);
        c.block = block;
        const auto layer = harness::attention_layer(parse_attention(std::string("regional:") + options), c, grid);
        harness::expect_adjoint(layer);
        for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
      }
}

}  // namespace
}  // namespace fovea
