#include "attention/local_groups.h"

#include <algorithm>
#include <functional>

#include "attention/band_groups.h"
#include "core/check.h"

namespace fovea {

namespace {

// The rows of a block, and those that it may see.
struct Blocks {
  int64_t begin, end, from, to;
};

void for_blocks(const LocalConfig& c, int64_t length, bool causal, const std::function<void(const Blocks&)>& f) {
  const int64_t forward = causal ? 0 : c.forward;
  for (int64_t begin = 0; begin < length; begin += c.window)
    f({begin, std::min(begin + c.window, length), std::max<int64_t>(begin - c.back * c.window, 0),
       std::min(begin + (forward + 1) * c.window, length)});
}

// Blocks longer than the sequence, and more of them than it has, are no more keys; and products of such numbers stay small.
LocalConfig within(LocalConfig c, int64_t length) {
  require(c.window > 0 && c.back >= 0 && c.forward >= 0, "local attention: a window of {} with {} blocks before and {} behind it", c.window,
          c.back, c.forward);
  c.window = std::min(c.window, std::max<int64_t>(length, 1));
  const int64_t most = length / c.window + 1;
  c.back = std::min(c.back, most);
  c.forward = std::min(c.forward, most);
  return c;
}

// -back · window <= key - query <= forward · window, as the rules say it: a causal order from a shifted query, with a band.
std::vector<PairRule> reach_rules(const LocalConfig& c, int64_t length, bool causal) {
  const auto reach = [&](int64_t blocks) { return static_cast<int32_t>(std::min(blocks * c.window, length)); };
  PairRule own;
  own.causal = causal;
  own.self_penalty = c.self_penalty;
  if (!c.exact) return {own};
  const int32_t back = reach(c.back), forward = reach(c.forward);
  own.band = back;
  if (causal || back == forward) return {own};
  PairRule ahead;
  ahead.causal = true;
  ahead.query_position_shift = forward;
  if (c.self_penalty == 0) {
    ahead.band = back + forward;
    return {ahead};
  }
  // The penalty holds where positions are equal, shift included: the keys up to the query without one, those behind apart.
  own.causal = true;
  if (forward == 0) return {own};
  ahead.band = forward - 1;
  return {own, ahead};
}

// Sum over i < length of min(i, reach).
double sum_up_to(int64_t length, int64_t reach) {
  const int64_t w = std::min(reach, length - 1);
  return static_cast<double>(w) * static_cast<double>(length) - static_cast<double>(w) * static_cast<double>(w + 1) / 2;
}

}  // namespace

TokenGroups local_groups(const LocalConfig& config, int64_t first, int64_t length, bool causal) {
  TokenGroups g;
  if (causal) {
    length += first;
    first = 0;
  }
  const LocalConfig c = within(config, length);
  g.rules = reach_rules(c, length, causal);
  if (g.rules.size() > 1) g.reduction = Reduction::kMergeLse;
  g.keys_disjoint = first == 0 && (length <= c.window || (c.back == 0 && (causal || c.forward == 0)));
  if (first > 0) {
    g.begin_group(-1);
    g.add_query_run(rows_run(0, first));
    g.add_key_run(rows_run(0, first + length));
    g.end_group();
  }
  for (size_t rule = 0; rule < g.rules.size(); ++rule) {
    for_blocks(c, length, causal, [&](const Blocks& b) {
      g.begin_group(g.rules[rule].looks_at_positions() ? static_cast<int32_t>(rule) : -1);
      g.add_query_run(rows_run(first + b.begin, b.end - b.begin));
      if (first > 0 && rule == 0) g.add_key_run(free_rows(first));
      g.add_key_run(rows_run(first + b.from, b.to - b.from));
      g.end_group();
    });
  }
  g.finish();
  return g;
}

double local_pairs(const LocalConfig& config, int64_t first, int64_t length) {
  const LocalConfig c = within(config, length);
  const double prefix = static_cast<double>(first) * static_cast<double>(first + 2 * length);
  if (length == 0) return prefix;
  if (c.exact) return prefix + static_cast<double>(length) + sum_up_to(length, c.back * c.window) + sum_up_to(length, c.forward * c.window);
  // In whole blocks; of the last one, which may be shorter, keys are missing for those that see it, and queries.
  const int64_t blocks = (length + c.window - 1) / c.window, missing = blocks * c.window - length;
  const double seen = static_cast<double>(blocks) + sum_up_to(blocks, c.back) + sum_up_to(blocks, c.forward);
  const double keys = static_cast<double>(c.window) * seen - static_cast<double>(missing * std::min(blocks, c.forward + 1));
  const int64_t of_last = std::min(blocks, c.back + 1) * c.window - missing;
  return prefix + static_cast<double>(c.window) * keys - static_cast<double>(missing) * static_cast<double>(of_last);
}

}  // namespace fovea
