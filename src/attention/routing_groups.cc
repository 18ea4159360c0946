#include "attention/routing_groups.h"

#include <algorithm>

#include "core/check.h"

namespace fovea {

namespace {

// Calls add(run) for rows in order, equal steps as one run.
template <class Add>
void add_rows(const int32_t* rows, int64_t count, int64_t offset, RowSource source, Add&& add) {
  for (int64_t i = 0; i < count;) {
    Run run;
    run.begin = static_cast<int32_t>(rows[i] + offset);
    run.source = source;
    int64_t end = i + 1;
    if (end < count) {
      run.stride = rows[end] - rows[i];
      while (end < count && rows[end] - rows[end - 1] == run.stride) ++end;
    }
    run.count = static_cast<int32_t>(end - i);
    add(run);
    i = end;
  }
}

class RoutingBuilder {
 public:
  RoutingBuilder(const RoutingGroups& routing, RoutingMemory& memory) : r_(routing), m_(memory), g_(memory.groups) {}

  void everybody() {
    const RoutedSide& q = r_.queries;
    if (q.prefix == 0 || r_.keys.rows == 0) return;
    g_.begin_group(-1, -1);
    g_.add_query_run({0, 1, static_cast<int32_t>(q.prefix)});
    g_.add_key_run({0, 1, static_cast<int32_t>(r_.keys.rows)});
    g_.end_group();
  }

  // A group of a cluster; queries and keys are ascending choices of it.
  void meet(int64_t cluster, const int32_t* queries, int64_t query_count, const int32_t* keys, int64_t key_count) {
    if (query_count == 0 || r_.memory + r_.keys.prefix + key_count == 0) return;
    g_.begin_group(0, -1);
    add_rows(queries, query_count, r_.queries.prefix, RowSource::kToken, [&](const Run& run) { g_.add_query_run(run); });
    g_.add_key_run({static_cast<int32_t>(cluster * r_.memory), 1, static_cast<int32_t>(r_.memory), RowSource::kMemory});
    g_.add_key_run({0, 1, static_cast<int32_t>(r_.keys.prefix), RowSource::kToken, true});
    add_rows(keys, key_count, r_.keys.prefix, RowSource::kToken, [&](const Run& run) { g_.add_key_run(run); });
    g_.end_group();
  }

  void balanced(int64_t b, int64_t h) {
    for (int64_t c = 0; c < r_.clusters; ++c) {
      const int64_t cluster = (b * r_.heads + h) * r_.clusters + c;
      const int32_t* queries = r_.queries.chosen + cluster * r_.queries.window;
      const int32_t* keys = r_.keys.chosen + cluster * r_.keys.window;
      const int64_t query_count = std::find(queries, queries + r_.queries.window, -1) - queries;
      const int64_t key_count = std::find(keys, keys + r_.keys.window, -1) - keys;
      if (r_.padding_is_routed)
        with_padding(b, c, queries, query_count, keys, key_count);
      else if (r_.causal && r_.rank_causal)
        for (int64_t i = 0; i < query_count; ++i) meet(c, queries + i, 1, keys, std::min(i + 1, key_count));
      else
        meet(c, queries, query_count, keys, key_count);
    }
  }

  // By the definition, query by query: a test's variant.
  void with_padding(int64_t b, int64_t c, const int32_t* queries, int64_t query_count, const int32_t* keys, int64_t key_count) {
    std::vector<int32_t> there;
    for (int64_t j = 0; j < key_count; ++j)
      if (!r_.key_padding || r_.key_padding[b * r_.keys.rows + r_.keys.prefix + keys[j]] == 0) there.push_back(keys[j]);
    for (int64_t i = 0; i < query_count; ++i) {
      const int32_t* query = queries + i;
      const bool padded = r_.query_padding && r_.query_padding[b * r_.queries.rows + r_.queries.prefix + *query] != 0;
      const auto sees = [&](int32_t key) { return !r_.causal || key <= *query; };
      const bool any = !padded && std::any_of(there.begin(), there.end(), sees);
      const bool itself = r_.self_penalty != 0 && std::binary_search(keys, keys + key_count, *query);
      if (any || r_.memory > 0) {
        meet(c, query, 1, there.data(), padded ? 0 : std::ssize(there));
      } else if (itself) {
        meet(c, query, 1, query, 1);
      } else {
        g_.begin_group(0, -1);
        add_rows(query, 1, r_.queries.prefix, RowSource::kToken, [&](const Run& run) { g_.add_query_run(run); });
        add_rows(keys, key_count, r_.uniform_rows + r_.keys.prefix, RowSource::kMemory, [&](const Run& run) { g_.add_key_run(run); });
        g_.end_group();
      }
    }
  }

  void nearest(int64_t b, int64_t h) {
    const int64_t bh = b * r_.heads + h;
    sort_by_cluster(r_.queries, bh, m_.query_order, m_.query_ends);
    sort_by_cluster(r_.keys, bh, m_.key_order, m_.key_ends);
    for (int64_t c = 0; c < r_.clusters; ++c) {
      const auto queries = members(m_.query_order, m_.query_ends, c), keys = members(m_.key_order, m_.key_ends, c);
      // A query falls into the block of the last key that is not behind it.
      const int64_t blocks = (keys.count + r_.block - 1) / r_.block;
      int64_t seen = 0, begin = 0;
      for (int64_t i = 0; i < queries.count;) {
        const auto block_of = [&](int64_t query) {
          while (seen < keys.count && keys.rows[seen] <= queries.rows[query]) ++seen;
          return std::max<int64_t>(seen - 1, 0) / r_.block;
        };
        const int64_t block = block_of(i);
        begin = i++;
        while (i < queries.count && block_of(i) == block) ++i;
        const int64_t first = std::max<int64_t>(block - 1, 0) * r_.block;
        const int64_t last = std::min((std::min(block + (r_.causal ? 1 : 2), blocks)) * r_.block, keys.count);
        meet(c, queries.rows + begin, i - begin, keys.rows + first, std::max<int64_t>(last - first, 0));
      }
    }
  }

 private:
  struct Members {
    const int32_t* rows;
    int64_t count;
  };
  static Members members(const std::vector<int32_t>& order, const std::vector<int32_t>& ends, int64_t c) {
    const int32_t begin = ends[static_cast<size_t>(c)];
    return {order.data() + begin, ends[static_cast<size_t>(c) + 1] - begin};
  }
  // Counting sort: rows by cluster, in order inside each; cluster c has [ends[c], ends[c + 1]).
  void sort_by_cluster(const RoutedSide& side, int64_t bh, std::vector<int32_t>& order, std::vector<int32_t>& ends) const {
    const int64_t rows = side.rows - side.prefix;
    const int32_t* nearest = side.nearest + bh * rows;
    ends.assign(static_cast<size_t>(r_.clusters) + 2, 0);
    for (int64_t n = 0; n < rows; ++n)
      if (nearest[n] >= 0) ++ends[static_cast<size_t>(nearest[n]) + 2];
    for (size_t c = 2; c < ends.size(); ++c) ends[c] += ends[c - 1];
    order.resize(static_cast<size_t>(rows));
    for (int64_t n = 0; n < rows; ++n)
      if (nearest[n] >= 0) order[static_cast<size_t>(ends[static_cast<size_t>(nearest[n]) + 1]++)] = static_cast<int32_t>(n);
  }

  const RoutingGroups& r_;
  RoutingMemory& m_;
  TokenGroups& g_;
};

}  // namespace

namespace {

// Room for any choices, so that a step whose choices fall into more runs than before takes no memory. A run names two rows at least,
// but for the last of a list.
void reserve(const RoutingGroups& r, TokenGroups& g) {
  const bool nearest = r.queries.nearest != nullptr;
  const int64_t groups = 1 + (nearest ? r.clusters + r.keys.rows / r.block : r.clusters);
  const int64_t rows = nearest ? r.queries.rows + 3 * r.keys.rows : r.clusters * (r.queries.window + r.keys.window);
  g.groups.reserve(static_cast<size_t>(r.batch * r.heads * groups));
  g.runs.reserve(static_cast<size_t>(r.batch * r.heads * (rows / 2 + 4 * groups)));
}

}  // namespace

const TokenGroups& build_routing_groups(const RoutingGroups& r, RoutingMemory& memory) {
  TokenGroups& g = memory.groups;
  check((r.queries.chosen == nullptr) == (r.queries.nearest != nullptr), "routing groups need choices of one kind");
  g.clear();
  if (!r.padding_is_routed && !r.rank_causal) reserve(r, g);
  PairRule& rule = g.only_rule();
  rule.causal = r.causal && !r.rank_causal;
  rule.self_penalty = r.self_penalty;
  const bool nearest = r.queries.nearest != nullptr;
  g.reduction = nearest ? Reduction::kAssign : Reduction::kMean;
  g.mean_epsilon = r.mean_epsilon;
  g.batches = r.batch;
  g.heads = r.heads;
  RoutingBuilder builder(r, memory);
  for (int64_t b = 0; b < r.batch; ++b)
    for (int64_t h = 0; h < r.heads; ++h) {
      g.begin_range();
      builder.everybody();
      if (nearest)
        builder.nearest(b, h);
      else
        builder.balanced(b, h);
    }
  if (r.batch * r.heads == 0) {
    g.batches = g.heads = 1;
    g.ranges.clear();
  }
  g.finish();
  return g;
}

}  // namespace fovea
