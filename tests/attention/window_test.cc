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
  const TokenGroups g = window_groups(4, 4, config(2, 0, WindowRule::timm()));
  ASSERT_EQ(g.groups.size(), 4u);
  EXPECT_EQ(rows_of(g, 0), (std::vector<int>{0, 1, 4, 5}));
  EXPECT_EQ(rows_of(g, 3), (std::vector<int>{10, 11, 14, 15}));
  EXPECT_TRUE(g.query_labels.empty());
}

TEST(WindowGroups, ShiftedWindowsWrapAndCarryRegions) {
  const TokenGroups g = window_groups(4, 4, config(2, 1, WindowRule::microsoft()));
  EXPECT_EQ(rows_of(g, 0), (std::vector<int>{5, 6, 9, 10}));
  EXPECT_EQ(rows_of(g, 3), (std::vector<int>{15, 12, 3, 0}));  // the four corners
  EXPECT_FALSE(g.groups[0].mixed_labels);
  EXPECT_TRUE(g.groups[3].mixed_labels);
  EXPECT_EQ(std::vector<int32_t>(g.query_labels.end() - 4, g.query_labels.end()), (std::vector<int32_t>{4, 5, 7, 8}));
  EXPECT_EQ(g.rule.region_penalty, -100);
}

TEST(WindowGroups, PadBeforeAndAfterTheRollDiffer) {
  // One row of three tokens, windows of two, shift one.
  WindowConfig before{1, 2, 0, 1, WindowRule::mmdet()}, after = before;
  after.rule.pad = WindowRule::Pad::kAfterRoll;
  const TokenGroups b = window_groups(1, 3, before), a = window_groups(1, 3, after);
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
        const TokenGroups g = window_groups(h, w, config(7, shift, WindowRule::named(rule)));
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

TEST(WindowAttention, PrefixTokensAreRefusedWithTheReason) {
  ParamStore p;
  AttentionConfig c;
  c.dim = 4;
  const auto window = make_attention(parse_attention("window"), Scope(p), c);
  EXPECT_EQ(window->unsupported({1, 1, 7, 7}).size(), 1u);
  EXPECT_TRUE(window->unsupported({1, 0, 7, 7}).empty());
}

}  // namespace
}  // namespace fovea
