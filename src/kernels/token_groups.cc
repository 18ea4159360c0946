#include "kernels/token_groups.h"

#include <algorithm>

#include "core/check.h"

namespace fovea {

void TokenGroups::begin_group() {
  Group g;
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
}

void TokenGroups::end_group() {
  const Group& g = groups.back();
  query_slots += g.queries;
  key_slots += g.keys;
  max_queries = std::max(max_queries, g.queries);
  max_keys = std::max(max_keys, g.keys);
}

void TokenGroups::finish() {
  if (ranges.empty()) ranges.push_back({0, static_cast<int32_t>(groups.size())});
  check(static_cast<int64_t>(ranges.size()) == batches * heads, "token groups: {} ranges for {} x {}", ranges.size(), batches,
        heads);
  if (query_labels.empty() && key_labels.empty()) return;
  check(static_cast<int64_t>(query_labels.size()) == query_slots && static_cast<int64_t>(key_labels.size()) == key_slots,
        "token groups: {} + {} labels for {} + {} slots", query_labels.size(), key_labels.size(), query_slots, key_slots);
  for (Group& g : groups) {
    if (g.queries == 0 || g.keys == 0) continue;
    const int32_t first = query_labels[static_cast<size_t>(g.query_slot)];
    const auto differs = [&](int32_t label) { return label != first; };
    const auto q = query_labels.begin() + g.query_slot;
    const auto k = key_labels.begin() + g.key_slot;
    g.mixed_labels = std::any_of(q, q + g.queries, differs) || std::any_of(k, k + g.keys, differs);
  }
}

}  // namespace fovea
