// Who meets whom in token groups, pair by pair and straight from the rules' words: what a geometry's tests hold against the
// definition of its pattern.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/token_groups.h"

namespace fovea::harness {

// How often each pair (query, key) of token rows has a score, (rows, rows).
inline std::vector<int> meetings(const TokenGroups& g, int64_t batch, int64_t head, int64_t rows) {
  std::vector<int> count(static_cast<size_t>(rows * rows), 0);
  const auto list = [&](int32_t begin, int32_t end, auto&& f) {
    for (int32_t r = begin; r < end; ++r) {
      const Run& run = g.runs[static_cast<size_t>(r)];
      for (int64_t i = 0; i < run.count; ++i)
        if (run.source == RowSource::kToken) f(run.begin + i * run.stride, run.free);
    }
  };
  const TokenGroups::Range& range = g.range(batch, head);
  for (int32_t n = range.begin; n < range.end; ++n) {
    const TokenGroups::Group& group = g.groups[static_cast<size_t>(n)];
    const PairRule& rule = g.rule_of(group);
    const auto allowed = [&](int64_t query, int64_t key, bool free) {
      for (const PairRule::Exclusion& e : rule.exclusions)
        if ((!free || e.of_free) && g.terms[static_cast<size_t>(e.term)].contains(query, key)) return false;
      if (free) return true;
      const int64_t position = query + rule.query_position_shift;
      const auto near = [&](int64_t a, int64_t b) {
        return std::abs(a - b) <= int64_t{rule.band} * rule.dilation && (a - b) % rule.dilation == 0;
      };
      if (rule.causal && key > position) return false;
      if (rule.band >= 0 && rule.map_width == 0 && !near(position, key)) return false;
      if (rule.band >= 0 && rule.map_width > 0) {
        const int64_t q = query - rule.first_row, k = key - rule.first_row;
        if (!near(q / rule.map_width, k / rule.map_width) || !near(q % rule.map_width, k % rule.map_width)) return false;
      }
      return !(position == key && std::isinf(rule.self_penalty));
    };
    list(group.query_runs, group.query_runs_end, [&](int64_t query, bool) {
      list(group.key_runs, group.key_runs_end, [&](int64_t key, bool free) {
        if (allowed(query, key, free)) ++count[static_cast<size_t>(query * rows + key)];
      });
    });
  }
  return count;
}

// Every pair that `meet` names has exactly one score, every other none.
inline void expect_meetings(const TokenGroups& g, int64_t batch, int64_t head, int64_t rows, const std::function<bool(int64_t, int64_t)>& meet) {
  const std::vector<int> count = meetings(g, batch, head, rows);
  for (int64_t q = 0; q < rows; ++q)
    for (int64_t k = 0; k < rows; ++k)
      ASSERT_EQ(count[static_cast<size_t>(q * rows + k)], meet(q, k) ? 1 : 0) << "query " << q << ", key " << k << ", head " << head;
}

}  // namespace fovea::harness
