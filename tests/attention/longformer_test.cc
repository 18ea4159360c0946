#include "attention/longformer.h"

#include <gtest/gtest.h>

#include "attention/masked_global.h"
#include "harness/layers.h"
#include "harness/meetings.h"

namespace fovea {
namespace {

// Keys of a query that is not global.
bool meet(const LongformerConfig& c, const TokenGrid& grid, bool causal, int64_t globals, int64_t head, int64_t i, int64_t j) {
  if (j < globals) return true;
  const int64_t d = c.dilation[static_cast<size_t>(head) % c.dilation.size()];
  const auto near = [&](int64_t a, int64_t b) { return std::abs(a - b) <= c.window * d && (a - b) % d == 0; };
  if (causal && j > i) return false;
  if (causal || grid.height == 1) return near(i, j);
  i -= grid.prefix;
  j -= grid.prefix;
  return near(i / grid.width, j / grid.width) && near(i % grid.width, j % grid.width);
}

const std::vector<TokenGrid> kGrids = {{2, 0, 1, 1}, {2, 0, 1, 40}, {2, 3, 1, 29}, {1, 0, 7, 9}, {1, 2, 6, 11}, {1, 1, 13, 1}};

TEST(LongformerGroups, EveryPairOfTheDefinitionMeetsExactlyOnce) {
  for (const TokenGrid& grid : kGrids)
    for (const bool causal : {false, true})
      for (const int64_t window : {0, 1, 2, 5, 40, 300})
        for (const std::vector<int64_t>& dilation : std::vector<std::vector<int64_t>>{{1}, {3}, {1, 2, 1}, {50}}) {
          SCOPED_TRACE(fmt::format("window {} dilation {} on {} causal {}", window, fmt::join(dilation, "_"), grid.str(), causal));
          const LongformerConfig c{window, dilation, 2};
          const LongformerGroups g = longformer_groups(c, grid, causal);
          const int64_t rows = grid.tokens();
          for (int64_t h = 0; h < 3; ++h)
            harness::expect_meetings(g.window, 0, h, rows,
                                     [&](int64_t i, int64_t j) { return i >= g.globals && meet(c, grid, causal, g.globals, h, i, j); });
          harness::expect_meetings(g.global, 0, 0, rows, [&](int64_t i, int64_t j) { return i < g.globals && (!causal || j <= i); });
        }
}

TEST(LongformerGroups, StatesNameGlobalAndPaddedTokensOfEachSample) {
  const LongformerConfig c{2, {1, 2}, 0};
  std::vector<int8_t> states(3 * 20, 0);
  for (const int64_t i : {0, 7, 8}) states[static_cast<size_t>(i)] = 1;
  for (int64_t i = 15; i < 20; ++i) states[static_cast<size_t>(20 + i)] = -1;
  states[20 + 3] = 1;
  for (const TokenGrid& grid : {TokenGrid{3, 0, 1, 20}, TokenGrid{3, 0, 4, 5}}) {
    LongformerStates s;
    s.build(c, grid, false, states.data());
    EXPECT_EQ(s.globals, 3);
    EXPECT_EQ(s.rows, (std::vector<int32_t>{0, 7, 8, 23, -1, -1, -1, -1, -1}));
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t h = 0; h < 2; ++h)
        harness::expect_meetings(s.window, b, h, 20, [&](int64_t i, int64_t j) {
          const int8_t q = states[static_cast<size_t>(b * 20 + i)], k = states[static_cast<size_t>(b * 20 + j)];
          return q == 0 && (k == 1 || (k == 0 && meet(c, grid, false, 0, h, i, j)));
        });
  }
}

// 64 k tokens: runs and groups are a small share of them, and no group is long.
TEST(LongformerGroups, GrowWithTheTokens) {
  for (const TokenGrid& grid : {TokenGrid{1, 1, 1, 65536}, TokenGrid{1, 1, 256, 256}})
    for (const int64_t dilation : {1, 4}) {
      const LongformerGroups g = longformer_groups({7, {dilation}, 0}, grid, false);
      EXPECT_LT(static_cast<int64_t>(g.window.runs.size()), grid.tokens());
      double scores = 0;
      for (const auto& group : g.window.groups) scores += static_cast<double>(group.queries) * group.keys;
      EXPECT_LT(scores, 600.0 * static_cast<double>(grid.tokens()));
    }
}

TEST(LongformerAttention, WithoutGlobalTokensItIsAMaskedSoftmax) {
  for (const auto& one : std::vector<std::pair<TokenGrid, bool>>{{{2, 0, 1, 150}, true}, {{2, 0, 1, 75}, false}, {{1, 0, 9, 11}, false}}) {
    const TokenGrid& grid = one.first;
    const bool causal = one.second;
    const LongformerConfig c{3, {1, 2}, 0};
    harness::expect_like_masked_global(parse_attention("longformer:window=3:dilation=1_2"), harness::attention_config(8, 2), grid, causal,
                                       [&](int64_t h, int64_t i, int64_t j) { return meet(c, grid, causal, 0, h, i, j); });
  }
}

TEST(LongformerAttention, AWindowOverEverythingIsGlobalAttention) {
  for (const TokenGrid& grid : {TokenGrid{2, 0, 1, 37}, TokenGrid{2, 0, 5, 6}})
    for (const bool causal : {false, true})
      harness::expect_like_masked_global(parse_attention("longformer:window=40"), harness::attention_config(8, 2), grid, causal,
                                         [&](int64_t, int64_t i, int64_t j) { return !causal || j <= i; });
}

// Gradients of input and every parameter with global tokens in front, dilations, causal order, states.
TEST(LongformerAttention, GradientsWithGlobalTokens) {
  const auto check = [](const std::string& text, const TokenGrid& grid, const std::function<void(AttentionInputs&)>& adjust) {
    SCOPED_TRACE(text + " on " + grid.str());
    const auto layer = harness::attention_layer(parse_attention(text), harness::attention_config(6, 2), grid, adjust);
    harness::expect_adjoint(layer);
    for (const KernelTable* table : harness::f32_tables()) {
      harness::expect_like_reference(layer, *table);
      harness::expect_same_for_any_threads(layer, *table);
    }
  };
  check("longformer:window=2:dilation=1_3:globals=2", {2, 1, 1, 21}, {});
  check("longformer:window=2:globals=3", {2, 0, 1, 21}, [](AttentionInputs& in) { in.causal = true; });
  check("longformer:window=1:dilation=2_1", {2, 2, 5, 7}, {});
  static const std::vector<int8_t> states = [] {
    std::vector<int8_t> s(2 * 21, 0);
    s[0] = s[9] = s[21 + 4] = 1;
    for (int i = 17; i < 21; ++i) s[static_cast<size_t>(21 + i)] = -1;
    return s;
  }();
  check("longformer:window=2:dilation=2_1", {2, 0, 1, 21}, [](AttentionInputs& in) { in.token_state = states.data(); });
  check("longformer:window=1", {2, 1, 4, 5}, [](AttentionInputs& in) { in.token_state = states.data(); });
}

TEST(LongformerAttention, NormsOfQueriesAndKeysInBothParts) {
  AttentionConfig config = harness::attention_config(16, 2);  // a norm over three channels, some alike, enlarges rounding a few hundred times
  config.qk_norm = true;
  const auto layer = harness::attention_layer(parse_attention("longformer:window=1"), config, {2, 2, 3, 4});
  harness::OracleOptions options;
  options.zero_gradients = {"attn.k_norm.bias", "attn.k_global_norm.bias"};  // shift whole rows of scores
  harness::expect_adjoint(layer, options);
  for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table, {}, options);
}

// Leading global tokens said by the option and by states are the same.
TEST(LongformerAttention, StatesAndOptionAgree) {
  harness::for_each_table([](const KernelTable& table) {
    ParamStore params;
    const auto attention = make_attention(parse_attention("longformer:window=2:globals=2"), Scope(params), harness::attention_config(6, 2));
    params.allocate(table.dtype, ParamStore::Gradients::kNo);
    harness::randomise(params, Rng(1));
    Context ctx(table, table.dtype, 1);
    const auto x = harness::random_tensor(Shape{2, 15, 6}, Rng(2), table.dtype);
    harness::HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype);
    std::vector<int8_t> states(30, 0);
    states[0] = states[1] = states[15] = states[16] = 1;
    AttentionInputs in;
    in.x = x;
    in.grid = {2, 0, 1, 15};
    attention->forward(in, a, nullptr, ctx);
    in.token_state = states.data();
    attention->forward(in, b, nullptr, ctx);
    harness::expect_close(a, b, harness::Tolerance::relative(table.dtype == DType::kF64 ? 1e-13 : 2e-6), "output");
    // Padded tokens give zeros before the projection: its bias alone is left.
    states[29] = -1;
    attention->forward(in, b, nullptr, ctx);
    for (int64_t c = 0; c < 6; ++c)
      EXPECT_NEAR(harness::value_at(b, 29 * 6 + c), harness::value_at(params.find("proj.bias")->value, c), 1e-6);
    // Causal order wants global tokens in front.
    in.causal = true;
    states[29] = 1;
    EXPECT_THROW(attention->forward(in, b, nullptr, ctx), Error);
  });
}

TEST(LongformerAttention, DilationsMustShareTheHeads) {
  ParamStore params;
  EXPECT_THROW(make_attention(parse_attention("longformer:dilation=1_2"), Scope(params), harness::attention_config(6, 3)), Error);
  ParamStore more;
  EXPECT_THROW(make_attention(parse_attention("longformer:dilation=1_x"), Scope(more), harness::attention_config(6, 2)), Error);
}

}  // namespace
}  // namespace fovea
