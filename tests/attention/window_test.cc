#include "attention/window.h"

#include <gtest/gtest.h>

#include "attention/registry.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

WindowConfig config(int64_t window, int64_t shift, const WindowRule& rule) { return {window, window, shift, shift, rule}; }

// Rows of one group's slots, -1 for pads.
std::vector<int> rows_of(const TokenGroups& g, size_t group) {
  std::vector<int> rows;
  for (int32_t r = g.groups[group].query_runs; r < g.groups[group].query_runs_end; ++r) {
    const Run& run = g.runs[static_cast<size_t>(r)];
    for (int32_t i = 0; i < run.count; ++i) rows.push_back(run.source == RowSource::kPad ? -1 : run.begin + i * run.stride);
  }
  return rows;
}

TEST(WindowGroups, PlainWindowsOfA4x4Map) {
  const TokenGroups g = window_groups({1, 0, 4, 4}, config(2, 0, WindowRule::timm()));
  ASSERT_EQ(g.groups.size(), 4u);
  EXPECT_EQ(rows_of(g, 0), (std::vector<int>{0, 1, 4, 5}));
  EXPECT_EQ(rows_of(g, 3), (std::vector<int>{10, 11, 14, 15}));
  EXPECT_TRUE(g.query_labels.empty());
}

TEST(WindowGroups, ShiftedWindowsWrapAndCarryRegions) {
  const TokenGroups g = window_groups({1, 0, 4, 4}, config(2, 1, WindowRule::microsoft()));
  EXPECT_EQ(rows_of(g, 0), (std::vector<int>{5, 6, 9, 10}));
  EXPECT_EQ(rows_of(g, 3), (std::vector<int>{15, 12, 3, 0}));  // the four corners
  EXPECT_FALSE(g.groups[0].mixed_labels);
  EXPECT_TRUE(g.groups[3].mixed_labels);
  EXPECT_EQ(std::vector<int32_t>(g.query_labels.end() - 4, g.query_labels.end()), (std::vector<int32_t>{4, 5, 7, 8}));
  EXPECT_EQ(g.rules[0].region_penalty, -100);
}

TEST(WindowGroups, PadBeforeAndAfterTheRollDiffer) {
  // One row of three tokens, windows of two, shift one.
  WindowConfig before{1, 2, 0, 1, WindowRule::mmdet()}, after = before;
  after.rule.pad = WindowRule::Pad::kAfterRoll;
  const TokenGroups b = window_groups({1, 0, 1, 3}, before), a = window_groups({1, 0, 1, 3}, after);
  EXPECT_EQ(rows_of(b, 0), (std::vector<int>{1, 2}));
  EXPECT_EQ(rows_of(b, 1), (std::vector<int>{-1, 0}));
  EXPECT_EQ(rows_of(a, 0), (std::vector<int>{1, 2}));
  EXPECT_EQ(rows_of(a, 1), (std::vector<int>{0, -1}));
}

TEST(WindowGeometry, TheFourRulesOnASmallMap) {
  const auto geometry = [](const WindowRule& rule) { return window_geometry(5, 9, config(7, 3, rule)); };
  const WindowGeometry m = geometry(WindowRule::microsoft());
  EXPECT_EQ((std::vector<int64_t>{m.window_h, m.window_w, m.shift_h, m.shift_w, m.padded_h, m.padded_w}),
            (std::vector<int64_t>{5, 5, 0, 0, 5, 10}));
  const WindowGeometry t = geometry(WindowRule::timm());
  EXPECT_EQ((std::vector<int64_t>{t.window_h, t.window_w, t.shift_h, t.shift_w, t.padded_h, t.padded_w}),
            (std::vector<int64_t>{5, 7, 0, 3, 5, 14}));
  const WindowGeometry v = geometry(WindowRule::torchvision());
  EXPECT_EQ((std::vector<int64_t>{v.window_h, v.window_w, v.shift_h, v.shift_w, v.padded_h, v.padded_w}),
            (std::vector<int64_t>{7, 7, 0, 3, 7, 14}));
  const WindowGeometry d = geometry(WindowRule::mmdet());
  EXPECT_EQ((std::vector<int64_t>{d.window_h, d.window_w, d.shift_h, d.shift_w, d.padded_h, d.padded_w}),
            (std::vector<int64_t>{7, 7, 3, 3, 7, 14}));
}

TEST(WindowGroups, EveryTokenStandsInExactlyOneWindow) {
  for (const char* rule : {"timm", "microsoft", "torchvision", "mmdet"})
    for (const auto& [h, w] : std::vector<std::pair<int64_t, int64_t>>{{7, 7}, {14, 15}, {56, 57}, {3, 20}, {1, 1}})
      for (const int64_t shift : {0, 3}) {
        const TokenGroups g = window_groups({1, 0, h, w}, config(7, shift, WindowRule::named(rule)));
        std::vector<int> seen(static_cast<size_t>(h * w), 0);
        for (size_t i = 0; i < g.groups.size(); ++i)
          for (const int row : rows_of(g, i))
            if (row >= 0) ++seen[static_cast<size_t>(row)];
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), h * w) << rule << " " << h << "x" << w;
      }
}

// Gradients with every rule, rectangular windows, both parities, on maps where the rules matter.
TEST(WindowAttention, GradientsUnderEveryRule) {
  AttentionConfig c;
  c.dim = 4;
  c.heads = 2;
  c.block = 1;
  for (const char* rule : {"timm", "microsoft", "torchvision", "mmdet"})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 5, 7}, TokenGrid{1, 0, 2, 9}}) {
      SCOPED_TRACE(fmt::format("{} on {}", rule, grid.str()));
      const AttentionSpec spec{"window", {{"size", "3x4"}, {"rule", rule}}};
      const auto layer = harness::attention_layer(spec, c, grid);
      harness::expect_adjoint(layer);
      for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
    }
}

// A window as large as the map, with an empty table, is global attention.
TEST(WindowAttention, AWindowOverTheWholeMapIsGlobalAttention) {
  harness::for_each_table([](const KernelTable& table) {
    AttentionConfig c;
    c.dim = 12;
    c.heads = 3;
    ParamStore wp, gp;
    const auto window = make_attention(parse_attention("window:size=5x6"), Scope(wp), c);
    const auto global = make_attention(parse_attention("global"), Scope(gp), c);
    wp.allocate(table.dtype, ParamStore::Gradients::kNo);
    gp.allocate(table.dtype, ParamStore::Gradients::kNo);
    harness::randomise(gp, Rng(2));
    for (const Param& p : gp.params()) std::memcpy(wp.find(p.name)->value.data, p.value.data, p.value.bytes());
    Context ctx(table, table.dtype, 1);
    AttentionInputs in;
    in.grid = {2, 0, 5, 6};
    const auto x = harness::random_tensor(Shape{2, 30, 12}, Rng(3), table.dtype);
    in.x = x;
    harness::HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype);
    window->forward(in, a, nullptr, ctx);
    global->forward(in, b, nullptr, ctx);
    harness::expect_close(a, b, harness::Tolerance::relative(table.dtype == DType::kF64 ? 1e-13 : 2e-6), "output");
  });
}

TEST(WindowGroups, PrefixTokensMeetAllBothWays) {
  for (const int64_t shift : {0, 1}) {
    const TokenGroups g = window_groups({1, 2, 4, 4}, config(2, shift, WindowRule::microsoft()));
    ASSERT_EQ(g.groups.size(), 5u);
    EXPECT_EQ(rows_of(g, 0), (std::vector<int>{0, 1}));
    EXPECT_EQ(g.groups[0].keys, 18);
    EXPECT_EQ(g.groups[0].bias, -1);
    EXPECT_EQ(rows_of(g, 1), shift == 0 ? (std::vector<int>{2, 3, 6, 7}) : (std::vector<int>{7, 8, 11, 12}));
    EXPECT_EQ(g.groups[4].keys, 6);
    EXPECT_EQ(g.biases[0].keys, 6);
    EXPECT_EQ(g.biases[0].queries, 4);
    EXPECT_EQ(g.groups[4].mixed_labels, shift == 1);
    EXPECT_FALSE(g.groups[0].mixed_labels);
  }
}

// In a union no slot outside the map is a key and regions never meet: the groups say what the pattern says.
TEST(WindowGroups, StrictWindowsAreTheirPattern) {
  AttentionConfig c;
  c.dim = c.heads = 1;
  for (const char* rule : {"timm", "microsoft", "torchvision", "mmdet"})
    for (const int64_t shift : {0, 1})
      for (const TokenGrid& grid : {TokenGrid{1, 0, 5, 4}, TokenGrid{1, 2, 4, 7}, TokenGrid{1, 1, 1, 1}}) {
        SCOPED_TRACE(fmt::format("{} {} {}", rule, shift, grid.str()));
        WindowConfig window = config(3, shift, WindowRule::named(rule));
        window.strict = true;
        ParamStore p;
        const WindowAttentionGeometry geometry(Scope(p), c, window);
        const PairPattern pattern = geometry.pattern(grid, false)[0];
        const TokenGroups g = window_groups(grid, window);
        const auto n = static_cast<size_t>(grid.tokens());
        std::vector<int> met(n * n, 0);
        for (const TokenGroups::Group& group : g.groups) {
          std::vector<int> keys;
          for (int32_t r = group.key_runs; r < group.key_runs_end; ++r)
            for (int32_t i = 0; i < g.runs[static_cast<size_t>(r)].count; ++i)
              keys.push_back(g.runs[static_cast<size_t>(r)].source == RowSource::kPad ? -1 : g.runs[static_cast<size_t>(r)].begin + i);
          int64_t slot = group.query_slot;
          for (int32_t r = group.query_runs; r < group.query_runs_end; ++r)
            for (int32_t i = 0; i < g.runs[static_cast<size_t>(r)].count; ++i, ++slot) {
              if (g.runs[static_cast<size_t>(r)].source == RowSource::kPad) continue;
              for (size_t k = 0; k < keys.size(); ++k) {
                const auto at = static_cast<size_t>(group.key_slot) + k;
                const int32_t a = g.query_labels.empty() ? 0 : g.query_labels[static_cast<size_t>(slot)];
                const int32_t b = g.key_labels.empty() ? 0 : g.key_labels[at];
                if (a != b && a != kAnyLabel && b != kAnyLabel) continue;
                ASSERT_GE(keys[k], 0) << "a slot outside the map is a key";
                ++met[static_cast<size_t>(g.runs[static_cast<size_t>(r)].begin + i) * n + static_cast<size_t>(keys[k])];
              }
            }
        }
        for (size_t i = 0; i < n * n; ++i)
          EXPECT_EQ(met[i], pattern.contains(static_cast<int64_t>(i / n), static_cast<int64_t>(i % n)) ? 1 : 0) << i / n << " " << i % n;
      }
}

TEST(WindowAttention, PrefixTokensAreSupported) {
  AttentionConfig c;
  c.dim = 4;
  c.heads = 2;
  for (const int64_t block : {0, 1}) {
    c.block = block;
    const auto layer = harness::attention_layer({"window", {{"size", "3"}}}, c, {2, 2, 5, 4});
    harness::expect_adjoint(layer);
    for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
  }
}

}  // namespace
}  // namespace fovea
