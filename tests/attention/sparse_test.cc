#include "attention/sparse.h"

#include <gtest/gtest.h>

#include "attention/masked_global.h"
#include "harness/meetings.h"

namespace fovea {
namespace {

using Pattern = SparseConfig::Pattern;
using Factors = SparseConfig::Factors;

// The definition, written pair by pair. Rows of the pattern are counted from 0; `head` picks factor and summary.
bool meet(const SparseConfig& c, const SparseTokens& t, int64_t head, int64_t i, int64_t j) {
  const int64_t l = sparse_stride(c, t), verticals = c.pattern == Pattern::kFixed ? c.verticals : 1;
  if (!t.causal && (i < t.prefix || j < t.prefix)) return true;
  if (t.causal && j > i) return false;
  if (!t.causal) {
    i -= t.prefix;
    j -= t.prefix;
  }
  bool first = false, second = false;
  const int64_t vertical = head % verticals;
  if (c.pattern == Pattern::kStrided) {
    first = t.sequence() ? std::abs(i - j) < l : i / t.width == j / t.width;
    second = t.sequence() ? (i - j) % l == 0 : i % t.width == j % t.width;
  } else if (t.causal) {
    const int64_t summary = c.summary > 0 ? c.summary : std::max<int64_t>(1, l / 8);
    first = i / l == j / l;
    second = j % l >= l - (vertical + 1) * summary && j % l < l - vertical * summary;
  } else {
    const auto block = [&](int64_t r) { return std::pair{r / t.width / l, r % t.width / l}; };
    first = block(i) == block(j);
    const auto [by, bx] = block(j);
    const int64_t height = std::min(l, t.height - by * l), width = std::min(l, t.width - bx * l);
    const int64_t whole = std::min(l, t.height) * std::min(l, t.width);
    const int64_t summary = std::min(c.summary > 0 ? c.summary : std::max<int64_t>(1, whole / 8), height * width);
    const int64_t end = std::max(height * width - vertical * summary, summary);
    const int64_t cell = (j / t.width - by * l) * width + j % t.width - bx * l;
    second = cell >= end - summary && cell < end;
  }
  switch (c.factors) {
    case Factors::kMerged: return first || second;
    case Factors::kHeads: return head % 2 == 0 ? first : second;
    case Factors::kFirst: return first;
    case Factors::kSecond: return second;
  }
  return false;
}

std::vector<SparseConfig> configs() {
  std::vector<SparseConfig> all;
  for (const Pattern p : {Pattern::kStrided, Pattern::kFixed})
    for (const Factors f : {Factors::kMerged, Factors::kHeads, Factors::kFirst, Factors::kSecond})
      for (const int64_t stride : {0, 1, 3, 4, 100}) {
        all.push_back({p, f, stride, 0, 1});
        if (p == Pattern::kFixed && f != Factors::kFirst) {
          all.push_back({p, f, stride, 2, 1});
          all.push_back({p, f, stride, 1, 3});
        }
      }
  return all;
}

std::vector<SparseTokens> grids() {
  return {{0, 1, 1, true},  {0, 1, 23, true},  {2, 1, 16, true},  {0, 5, 4, true},  {0, 1, 23, false}, {2, 1, 17, false},
          {1, 11, 1, false}, {0, 5, 7, false}, {3, 6, 6, false}, {0, 1, 1, false}, {0, 2, 9, false}};
}

TEST(SparseGroups, EveryPairOfTheDefinitionMeetsExactlyOnce) {
  for (const SparseConfig& c : configs())
    for (const SparseTokens& t : grids()) {
      SCOPED_TRACE(fmt::format("pattern {} factors {} stride {} summary {} verticals {} on {} + {}x{} causal {}", static_cast<int>(c.pattern),
                               static_cast<int>(c.factors), c.stride, c.summary, c.verticals, t.prefix, t.height, t.width, t.causal));
      const TokenGroups g = sparse_groups(c, t);
      const std::vector<PairPattern> patterns = sparse_pattern(c, t);
      const int64_t rows = t.prefix + t.map();
      for (int64_t head = 0; head < 2 * g.heads; ++head) {
        harness::expect_meetings(g, 0, head, rows, [&](int64_t i, int64_t j) { return meet(c, t, head, i, j); });
        const PairPattern& p = patterns[static_cast<size_t>(head) % patterns.size()];
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < rows; ++j) ASSERT_EQ(p.contains(i, j), meet(c, t, head, i, j)) << i << " " << j;
      }
      if (t.causal) continue;
      double pairs = 0;
      const int64_t heads = c.factors == Factors::kHeads ? 2 : 1;
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < rows; ++j) pairs += meet({c.pattern, c.factors, c.stride, c.summary, 1}, t, head, i, j);
      EXPECT_DOUBLE_EQ(sparse_pairs(c, t), pairs / static_cast<double>(heads));
    }
}

// Runs are what the description and the building cost; slots what the scores cost beside them.
TEST(SparseGroups, GrowWithTheTokensAndTheirRoot) {
  for (const Pattern p : {Pattern::kStrided, Pattern::kFixed})
    for (const bool causal : {true, false})
      for (const int64_t side : {64, 128, 256}) {
        const SparseTokens t{0, causal ? 1 : side, causal ? side * side : side, causal};
        const TokenGroups g = sparse_groups({p, Factors::kMerged, 0, 1, 1}, t);
        const int64_t n = side * side;
        EXPECT_LT(static_cast<int64_t>(g.runs.size()), n) << side;
        double scores = 0;
        for (const auto& group : g.groups) scores += static_cast<double>(group.queries) * group.keys;
        EXPECT_LT(scores, 6.0 * static_cast<double>(n) * static_cast<double>(side)) << side;
      }
}

TEST(SparseAttention, EqualsAMaskedSoftmax) {
  AttentionConfig config;
  config.dim = 8;
  config.heads = 2;
  const auto check = [&](const std::string& text, const SparseConfig& c, const TokenGrid& grid, bool causal) {
    SCOPED_TRACE(text + " on " + grid.str());
    const SparseTokens t{grid.prefix, grid.height, grid.width, causal};
    harness::expect_like_masked_global(parse_attention(text), config, grid, causal,
                                       [&](int64_t h, int64_t i, int64_t j) { return meet(c, t, h, i, j); });
  };
  for (const auto& [grid, causal] : std::vector<std::pair<TokenGrid, bool>>{{{2, 0, 1, 61}, true}, {{2, 1, 9, 8}, false}, {{1, 0, 1, 50}, false}}) {
    check("sparse", {}, grid, causal);
    check("sparse:mode=heads", {Pattern::kStrided, Factors::kHeads, 0, 0, 1}, grid, causal);
    check("sparse:pattern=fixed:stride=4:summary=2", {Pattern::kFixed, Factors::kMerged, 4, 2, 1}, grid, causal);
    check("sparse:pattern=fixed:stride=5:verticals=2", {Pattern::kFixed, Factors::kMerged, 5, 0, 2}, grid, causal);
    check("sparse:pattern=local:stride=7", {Pattern::kStrided, Factors::kFirst, 7, 0, 1}, grid, causal);
  }
}

// The first rows see no summary: zeros, not the future.
TEST(SparseAttention, RowsWithoutKeysAreZeros) {
  harness::for_each_table([](const KernelTable& table) {
    ParamStore params;
    AttentionConfig config;
    config.dim = 4;
    config.project_out = false;
    const auto attention = make_attention(parse_attention("sparse:pattern=fixed_summary:stride=4:summary=1"), Scope(params), config);
    params.allocate(table.dtype, ParamStore::Gradients::kNo);
    harness::randomise(params, Rng(1));
    Context ctx(table, table.dtype, 1);
    AttentionInputs in;
    const auto x = harness::random_tensor(Shape{1, 9, 4}, Rng(2), table.dtype);
    in.x = x;
    in.grid = {1, 0, 1, 9};
    in.causal = true;
    harness::HostTensor y(x.shape, x.dtype);
    attention->forward(in, y, nullptr, ctx);
    harness::expect_zero(y.reshaped(Shape{9, 4}).slice(0, 3), 0, "rows before the first summary");
    EXPECT_NE(harness::value_at(y, 3 * 4), 0);
  });
}

TEST(SparseAttention, AlternatesByBlock) {
  AttentionConfig config;
  config.dim = 6;
  const TokenGrid grid{1, 0, 5, 6};
  for (const int64_t block : {0, 1}) {
    config.block = block;
    harness::expect_like_masked_global(parse_attention("sparse:mode=alternate"), config, grid, false, [&](int64_t, int64_t i, int64_t j) {
      return block == 0 ? i / 6 == j / 6 : i % 6 == j % 6;
    });
  }
}

TEST(SparseAttention, WrongOptionsAreNamed) {
  ParamStore params;
  AttentionConfig config;
  config.dim = 4;
  EXPECT_THROW(make_attention(parse_attention("sparse:pattern=rows"), Scope(params), config), Error);
  EXPECT_THROW(make_attention(parse_attention("sparse:mode=heads"), Scope(params), config), Error);
  EXPECT_THROW(make_attention(parse_attention("sparse:stride=-1"), Scope(params), config), Error);
}

}  // namespace
}  // namespace fovea
