#include "kernels/token_groups.h"

#include <algorithm>

#include "core/check.h"

namespace fovea {

namespace {

// Whether some pair of a query's and a key's label, wildcards left out, differs.
bool labels_differ(const int32_t* queries, int32_t query_count, const int32_t* keys, int32_t key_count) {
  const auto counts = [](int32_t label) { return label != kAnyLabel; };
  const int32_t* q = std::find_if(queries, queries + query_count, counts);
  const int32_t* k = std::find_if(keys, keys + key_count, counts);
  if (q == queries + query_count || k == keys + key_count) return false;
  const auto differs = [&](int32_t label) { return counts(label) && label != *q; };
  return std::any_of(q, queries + query_count, differs) || std::any_of(k, keys + key_count, differs);
}

}  // namespace

const PairRule& TokenGroups::rule_of(const Group& group) const {
  static const PairRule none;
  return group.rule >= 0 && static_cast<size_t>(group.rule) < rules.size() ? rules[static_cast<size_t>(group.rule)] : none;
}

bool TokenGroups::selects_pairs() const {
  return std::any_of(rules.begin(), rules.end(), [](const PairRule& r) { return r.looks_at_positions() || !r.exclusions.empty(); });
}

PairRule& TokenGroups::only_rule() {
  if (rules.empty()) rules.emplace_back();
  return rules.front();
}

void TokenGroups::begin_group(int32_t rule, int32_t bias) {
  Group g;
  g.rule = rule;
  g.bias = bias;
  g.query_runs = g.query_runs_end = g.key_runs = g.key_runs_end = static_cast<int32_t>(runs.size());
  g.query_slot = query_slots;
  g.key_slot = key_slots;
  groups.push_back(g);
}

void TokenGroups::add_query_run(const Run& run) {
  Group& g = groups.back();
  check(g.keys == 0, "a query run after the group's key runs");
  check(run.source != RowSource::kMemory, "memory rows are keys, never queries");
  if (run.count == 0) return;
  runs.push_back(run);
  g.query_runs_end = g.key_runs = g.key_runs_end = static_cast<int32_t>(runs.size());
  g.queries += run.count;
}

void TokenGroups::add_key_run(const Run& run) {
  if (run.count == 0) return;
  Group& g = groups.back();
  runs.push_back(run);
  g.key_runs_end = static_cast<int32_t>(runs.size());
  g.keys += run.count;
  g.free_keys = g.free_keys || run.free;
}

void TokenGroups::clear() {
  runs.clear();
  groups.clear();
  query_labels.clear();
  key_labels.clear();
  rules.clear();
  terms.clear();
  ranges.clear();
  biases.clear();
  reduction = Reduction::kAssign;
  mean_epsilon = 0;
  batches = heads = 1;
  keys_disjoint = false;
  query_slots = key_slots = most_query_slots = most_key_slots = 0;
  max_queries = max_keys = 0;
  range_open = false;
}

void TokenGroups::begin_range() {
  most_query_slots = std::max(most_query_slots, query_slots);
  most_key_slots = std::max(most_key_slots, key_slots);
  query_slots = key_slots = 0;
  const auto next = static_cast<int32_t>(groups.size());
  ranges.push_back({next, next});
  range_open = true;
}

void TokenGroups::end_group() {
  const Group& g = groups.back();
  if (range_open) ranges.back().end = static_cast<int32_t>(groups.size());
  query_slots += g.queries;
  key_slots += g.keys;
  max_queries = std::max(max_queries, g.queries);
  max_keys = std::max(max_keys, g.keys);
}

void TokenGroups::finish() {
  if (ranges.empty()) ranges.push_back({0, static_cast<int32_t>(groups.size())});
  query_slots = std::max(most_query_slots, query_slots);
  key_slots = std::max(most_key_slots, key_slots);
  check(static_cast<int64_t>(ranges.size()) == batches * heads, "token groups: {} ranges for {} x {}", ranges.size(), batches,
        heads);
  for (const PairRule& rule : rules) {
    check(rule.dilation >= 1, "token groups: a dilation of {}", rule.dilation);
    check(rule.map_width == 0 || (!rule.causal && rule.query_position_shift == 0), "token groups: a causal order on a map");
    for (const PairRule::Exclusion& e : rule.exclusions)
      check(e.term >= 0 && static_cast<size_t>(e.term) < terms.size(), "token groups: term {} of {}", e.term, terms.size());
  }
  biases.clear();
  for (const Group& g : groups) {
    if (g.bias < 0) continue;
    if (static_cast<size_t>(g.bias) >= biases.size()) biases.resize(static_cast<size_t>(g.bias) + 1);
    Bias& b = biases[static_cast<size_t>(g.bias)];
    b.queries = std::max(b.queries, g.queries);
    b.keys = std::max(b.keys, g.keys);
  }
  for (size_t i = 1; i < biases.size(); ++i) biases[i].offset = biases[i - 1].offset + biases[i - 1].elements();
  if (query_labels.empty() && key_labels.empty()) return;
  check(static_cast<int64_t>(query_labels.size()) == query_slots && static_cast<int64_t>(key_labels.size()) == key_slots,
        "token groups: {} + {} labels for {} + {} slots", query_labels.size(), key_labels.size(), query_slots, key_slots);
  for (Group& g : groups)
    g.mixed_labels = labels_differ(query_labels.data() + g.query_slot, g.queries, key_labels.data() + g.key_slot, g.keys);
}

}  // namespace fovea
