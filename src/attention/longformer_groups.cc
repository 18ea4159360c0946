#include "attention/longformer_groups.h"

#include <algorithm>

#include "attention/band_groups.h"
#include "attention/geometry.h"

namespace fovea {

namespace {

bool is_sequence(const TokenGrid& grid, bool causal) { return causal || grid.height == 1; }

int32_t number_of(const TokenGroups& g) { return static_cast<int32_t>(g.groups.size()); }

// The window of every head of one sample, the first `everywhere` rows' queries before it. Heads with the same dilation share their
// groups.
void add_windows(TokenGroups& g, const LongformerConfig& c, const TokenGrid& grid, bool causal, int64_t first,
                 std::span<const Run> free, const int8_t* states, int64_t everywhere = 0) {
  const bool sequence = is_sequence(grid, causal);
  const int64_t length = grid.tokens() - first;
  const size_t rules = c.dilation.size();
  for (size_t head = 0; head < rules; ++head) {
    const auto same = static_cast<size_t>(std::find(c.dilation.begin(), c.dilation.end(), c.dilation[head]) - c.dilation.begin());
    if (same < head) {
      g.ranges.push_back(g.ranges[g.ranges.size() - (head - same)]);
      continue;
    }
    const int32_t begin = number_of(g);
    const Band band{.window = c.window, .dilation = c.dilation[head], .causal = causal};
    const auto rule = static_cast<int32_t>(head);
    add_prefix_queries(g, everywhere, grid.tokens(), false);
    if (sequence)
      add_band(g, band, rule, first, length, free, states);
    else
      add_band_on_map(g, band, rule, grid.prefix, grid.height, grid.width, free, states);
    g.ranges.push_back({begin, number_of(g)});
  }
}

TokenGroups with_rules(const LongformerConfig& c, const TokenGrid& grid, bool causal) {
  TokenGroups g;
  for (const int64_t dilation : c.dilation) {
    const Band band{.window = c.window, .dilation = dilation, .causal = causal};
    g.rules.push_back(is_sequence(grid, causal) ? band_rule(band, grid.tokens())
                                                : band_rule(band, std::max(grid.height, grid.width), grid.width, grid.prefix));
  }
  g.heads = static_cast<int64_t>(c.dilation.size());
  return g;
}

}  // namespace

int64_t longformer_globals(const LongformerConfig& c, const TokenGrid& grid, bool causal) {
  return is_sequence(grid, causal) ? std::min(grid.prefix + c.globals, grid.tokens()) : grid.prefix;
}

LongformerGroups longformer_groups(const LongformerConfig& c, const TokenGrid& grid, bool causal) {
  LongformerGroups g;
  const int64_t tokens = grid.tokens();
  g.globals = longformer_globals(c, grid, causal);
  g.window = with_rules(c, grid, causal);
  const Run free = free_rows(g.globals);
  add_windows(g.window, c, grid, causal, g.globals, {&free, g.globals > 0 ? size_t{1} : size_t{0}}, nullptr);
  g.window.finish();
  g.global.only_rule().causal = causal;
  g.global.begin_group();
  g.global.add_query_run(rows_run(0, g.globals));
  g.global.add_key_run(rows_run(0, tokens));
  g.global.end_group();
  g.global.keys_disjoint = true;
  g.global.finish();
  for (int64_t b = 0; b < grid.batch; ++b)
    for (int64_t i = 0; i < g.globals; ++i) g.rows.push_back(static_cast<int32_t>(b * tokens + i));
  return g;
}

TokenGroups longformer_pattern_groups(const LongformerConfig& c, const TokenGrid& grid, bool causal) {
  const int64_t prefix = causal ? 0 : grid.prefix;
  TokenGroups g = with_rules(c, grid, causal);
  const Run free = free_rows(prefix);
  add_windows(g, c, grid, causal, prefix, {&free, prefix > 0 ? size_t{1} : size_t{0}}, nullptr, prefix);
  g.finish();
  return g;
}

std::vector<PairPattern> longformer_patterns(const LongformerConfig& c, const TokenGrid& grid, bool causal) {
  const int64_t prefix = causal ? 0 : grid.prefix, tokens = grid.tokens();
  const auto within = [&](int64_t i) { return static_cast<int32_t>(std::min(i, std::max<int64_t>(tokens, 1))); };
  std::vector<PairPattern> patterns;
  for (const int64_t dilation : c.dilation) {
    PairPattern& p = patterns.emplace_back();
    p.terms.push_back(is_sequence(grid, causal)
                          ? PairTerm::band_of(within(c.window), within(dilation), causal)
                          : PairTerm::band_on_map(within(c.window), within(dilation), static_cast<int32_t>(grid.width), static_cast<int32_t>(prefix)));
    add_prefix_terms(p, prefix, tokens);
  }
  return patterns;
}

void LongformerStates::build(const LongformerConfig& c, const TokenGrid& grid, bool causal, const int8_t* token_states) {
  const int64_t batch = grid.batch, tokens = grid.tokens();
  const auto count = static_cast<size_t>(batch * tokens);
  if (built_ && given_.size() == count && std::equal(given_.begin(), given_.end(), token_states)) return;
  built_ = false;
  given_.assign(token_states, token_states + count);
  states_ = given_;
  if (!is_sequence(grid, causal))
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < grid.prefix; ++i)
        if (states_[static_cast<size_t>(b * tokens + i)] == 0) states_[static_cast<size_t>(b * tokens + i)] = 1;
  globals = 0;
  for (int64_t b = 0; b < batch; ++b)
    globals = std::max<int64_t>(globals, std::count(states_.begin() + b * tokens, states_.begin() + (b + 1) * tokens, int8_t{1}));
  rows.assign(static_cast<size_t>(batch * globals), -1);
  window = with_rules(c, grid, causal);
  global = TokenGroups();
  global.only_rule().causal = causal;
  window.batches = global.batches = std::max<int64_t>(batch, 1);

  std::vector<Run> free, present;
  // Neighbours of a kind are one run.
  const auto extend = [](std::vector<Run>& runs, int64_t row, bool is_free) {
    if (!runs.empty() && runs.back().begin + runs.back().count == row) {
      ++runs.back().count;
      return;
    }
    runs.push_back(rows_run(row, 1));
    runs.back().free = is_free;
  };
  for (int64_t b = 0; b < batch; ++b) {
    const int8_t* state = states_.data() + b * tokens;
    free.clear();
    present.clear();
    int64_t found = 0;
    for (int64_t i = 0; i < tokens; ++i) {
      if (state[i] >= 0) extend(present, i, false);
      if (state[i] <= 0) continue;
      require(!causal || i == found, "causal longformer attention: token {} is global behind one that is not; global tokens come first", i);
      extend(free, i, true);
      rows[static_cast<size_t>(b * globals + found++)] = static_cast<int32_t>(b * tokens + i);
    }
    add_windows(window, c, grid, causal, 0, free, state);
    const int32_t begin = number_of(global);
    if (found > 0) {
      global.begin_group();
      global.add_query_run(rows_run(0, found));
      for (const Run& run : present) global.add_key_run(run);
      global.end_group();
    }
    global.ranges.push_back({begin, number_of(global)});
  }
  if (batch == 0) {
    window.ranges.assign(c.dilation.size(), {0, 0});
    global.ranges.assign(1, {0, 0});
  }
  window.finish();
  global.finish();
  built_ = true;
}

}  // namespace fovea
