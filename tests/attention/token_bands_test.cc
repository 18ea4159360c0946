#include "attention/token_bands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "attention/window.h"

namespace fovea {
namespace {

WindowConfig window(int64_t size, int64_t shift) {
  WindowConfig w;
  w.window_h = w.window_w = size;
  w.shift_h = w.shift_w = shift;
  return w;
}

// (query row, key row, whether their labels differ) of every pair of token rows; with `rows`, numbered as in the map.
using Pairs = std::multiset<std::tuple<int64_t, int64_t, bool>>;
void add_pairs(const TokenGroups& g, const std::vector<int64_t>& rows, Pairs& pairs) {
  for (const TokenGroups::Group& group : g.groups) {
    const auto slots = [&](int32_t begin, int32_t end) {
      std::vector<int64_t> of;
      for (int32_t r = begin; r < end; ++r) {
        const Run& run = g.runs[static_cast<size_t>(r)];
        for (int32_t i = 0; i < run.count; ++i)
          of.push_back(run.source == RowSource::kToken ? rows[static_cast<size_t>(run.begin + i * run.stride)] : -1);
      }
      return of;
    };
    const auto queries = slots(group.query_runs, group.query_runs_end), keys = slots(group.key_runs, group.key_runs_end);
    for (size_t q = 0; q < queries.size(); ++q)
      for (size_t k = 0; k < keys.size(); ++k) {
        const bool differ = !g.query_labels.empty() && g.query_labels[static_cast<size_t>(group.query_slot) + q] !=
                                                           g.key_labels[static_cast<size_t>(group.key_slot) + k];
        if (queries[q] >= 0) pairs.insert({queries[q], keys[k], differ});
      }
  }
}

void expect_same_pairs(const TokenGroups& whole, const std::vector<TokenBand>& bands, int64_t tokens) {
  std::vector<int64_t> all(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < tokens; ++i) all[static_cast<size_t>(i)] = i;
  Pairs expected, found;
  add_pairs(whole, all, expected);
  std::vector<int> seen(static_cast<size_t>(tokens), 0);
  for (const TokenBand& band : bands) {
    std::vector<int64_t> rows;
    for (const TokenBand::Rows& r : band.rows)
      for (int64_t i = 0; i < r.count; ++i) {
        rows.push_back(r.begin + i);
        ++seen[static_cast<size_t>(r.begin + i)];
      }
    ASSERT_EQ(static_cast<int64_t>(rows.size()), band.count);
    EXPECT_EQ(band.groups.bias_elements(), whole.bias_elements());
    add_pairs(band.groups, rows, found);
  }
  EXPECT_THAT(seen, testing::Each(1)) << "a token in no band or in two";
  EXPECT_TRUE(found == expected);
}

TEST(TokenBands, WindowsAreCutIntoLinesOfWindows) {
  const TokenGrid grid{1, 0, 14, 21};
  const TokenGroups g = window_groups(grid, window(7, 0));
  const auto bands = token_bands(g, grid.tokens(), grid.width, 1);
  ASSERT_EQ(bands.size(), 2u);
  EXPECT_EQ(bands[1].rows.size(), 1u);
  EXPECT_EQ(bands[1].rows[0].begin, 7 * 21);
  expect_same_pairs(g, bands, grid.tokens());
}

TEST(TokenBands, AShiftJoinsTheFirstAndTheLastLines) {
  const TokenGrid grid{1, 0, 21, 14};
  const TokenGroups g = window_groups(grid, window(7, 3));
  const auto bands = token_bands(g, grid.tokens(), grid.width, 1);
  ASSERT_EQ(bands.size(), 3u);
  EXPECT_EQ(bands[0].rows.size(), 2u);  // lines 0 to 2 and 17 to 20
  EXPECT_EQ(bands[0].count, 7 * 14);
  EXPECT_EQ(bands[1].rows[0].begin, 3 * 14);
  expect_same_pairs(g, bands, grid.tokens());
}

TEST(TokenBands, OddMapsKeepTheirPads) {
  for (const WindowRule& rule : {WindowRule::timm(), WindowRule::microsoft(), WindowRule::torchvision(), WindowRule::mmdet()})
    for (const int64_t shift : {0, 2}) {
      const TokenGrid grid{1, 0, 17, 11};
      WindowConfig w = window(5, shift);
      w.rule = rule;
      const TokenGroups g = window_groups(grid, w);
      const auto bands = token_bands(g, grid.tokens(), grid.width, 1);
      EXPECT_GT(bands.size(), 2u);
      expect_same_pairs(g, bands, grid.tokens());
    }
}

TEST(TokenBands, SmallOnesJoinUntilTheyAreLargeEnough) {
  const TokenGrid grid{1, 0, 35, 7};
  const TokenGroups g = window_groups(grid, window(7, 0));
  const auto bands = token_bands(g, grid.tokens(), grid.width, 2 * 49);
  ASSERT_EQ(bands.size(), 2u);
  EXPECT_EQ(bands[0].count, 2 * 49);
  EXPECT_EQ(bands[1].count, 3 * 49);
  expect_same_pairs(g, bands, grid.tokens());
  EXPECT_EQ(token_bands(g, grid.tokens(), grid.width, 1000).size(), 1u);
}

TEST(TokenBands, WhatHangsTogetherOrOnPlacesStaysWhole) {
  TokenGroups all;
  all.begin_group();
  all.add_query_run({0, 1, 12});
  all.add_key_run({0, 1, 12});
  all.end_group();
  all.finish();
  EXPECT_EQ(token_bands(all, 12, 3, 1).size(), 1u);
  all.only_rule().causal = true;
  EXPECT_TRUE(token_bands(all, 12, 3, 1).empty());

  TokenGroups columns;  // two groups of every second line: a band of one would leap over the other's
  for (int32_t i = 0; i < 2; ++i) {
    columns.begin_group();
    columns.add_query_run({3 * i, 6, 2});
    columns.add_key_run({3 * i, 6, 2});
    columns.end_group();
  }
  columns.finish();
  EXPECT_TRUE(token_bands(columns, 12, 3, 1).empty());
}

}  // namespace
}  // namespace fovea
