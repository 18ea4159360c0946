#include "attention/local.h"

#include <gtest/gtest.h>

#include "attention/masked_global.h"
#include "harness/meetings.h"

namespace fovea {
namespace {

bool meet(const LocalConfig& c, int64_t first, bool causal, int64_t i, int64_t j) {
  if (!causal && (i < first || j < first)) return true;
  if (!causal) {
    i -= first;
    j -= first;
  }
  if (causal && j > i) return false;
  const int64_t blocks = j / c.window - i / c.window;
  if (blocks < -c.back || blocks > c.forward) return false;
  return !c.exact || (j - i >= -c.back * c.window && j - i <= c.forward * c.window);
}

TEST(LocalGroups, EveryPairOfTheDefinitionMeetsExactlyOnce) {
  for (const int64_t window : {1, 3, 4, 50})
    for (const auto& [back, forward] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {0, 0}, {2, 0}, {0, 3}, {2, 1}, {9, 9}})
      for (const bool exact : {false, true})
        for (const auto& sequence :
             std::vector<std::tuple<int64_t, int64_t, bool>>{{0, 1, true}, {0, 23, true}, {2, 12, true}, {0, 23, false}, {3, 17, false}}) {
          const int64_t first = std::get<0>(sequence), length = std::get<1>(sequence);
          const bool causal = std::get<2>(sequence);
          SCOPED_TRACE(fmt::format("window {} back {} forward {} exact {} on {} + {} causal {}", window, back, forward, exact, first, length, causal));
          LocalConfig c{window, back, forward, exact, 0};
          harness::expect_meetings(local_groups(c, first, length, causal), 0, 0, first + length,
                                   [&](int64_t i, int64_t j) { return meet(c, first, causal, i, j); });
          const auto patterns = LocalGeometry(c).pattern({1, first, 1, length}, causal);
          double pairs = 0;
          for (int64_t i = 0; i < first + length; ++i)
            for (int64_t j = 0; j < first + length; ++j) {
              ASSERT_EQ(patterns[0].contains(i, j), meet(c, first, causal, i, j)) << i << " " << j;
              pairs += meet(c, first, false, i, j);
            }
          EXPECT_DOUBLE_EQ(local_pairs(c, first, length), pairs);
          // A token and itself: a penalty without end takes exactly that pair away, whatever the reach.
          c.self_penalty = -std::numeric_limits<float>::infinity();
          harness::expect_meetings(local_groups(c, first, length, causal), 0, 0, first + length, [&](int64_t i, int64_t j) {
            return meet(c, first, causal, i, j) && (i != j || (!causal && i < first));
          });
        }
}

TEST(LocalAttention, EqualsAMaskedSoftmax) {
  AttentionConfig config;
  config.dim = 8;
  config.heads = 2;
  for (const TokenGrid& grid : {TokenGrid{2, 0, 1, 61}, TokenGrid{2, 1, 9, 8}})
    for (const bool exact : {false, true}) {
      const bool causal = grid.height == 1;
      const LocalConfig c{7, 2, 1, exact, 0};
      harness::expect_like_masked_global(parse_attention(exact ? "local:window=7:back=2:exact=yes" : "local:window=7:back=2"), config, grid, causal,
                                         [&](int64_t, int64_t i, int64_t j) { return meet(c, grid.prefix, causal, i, j); });
    }
}

}  // namespace
}  // namespace fovea
