// Clusters as token groups: who was chosen for which cluster, made into groups for each batch element and head.
#pragma once

#include "kernels/token_groups.h"

namespace fovea {

// One side of the choices: queries or keys. Rows before `prefix` were not routed; choices count from there on.
struct RoutedSide {
  int64_t rows = 0, prefix = 0;
  const int32_t* chosen = nullptr;   // balanced: (B, H, clusters, window) ascending, -1 behind the last
  int64_t window = 0;
  const int32_t* nearest = nullptr;  // nearest: (B, H, rows - prefix) a cluster, or -1
};

struct RoutingGroups {
  int64_t batch = 0, heads = 0, clusters = 0;
  int64_t memory = 0;                // memory rows of a cluster: rows [c * memory, (c + 1) * memory)
  RoutedSide queries, keys;          // both balanced, or both nearest
  int64_t block = 0;                 // nearest: a cluster's keys in blocks of so many, each met with its neighbours
  bool causal = false;
  float self_penalty = 0;
  double mean_epsilon = 0;

  // Variants that official code has and fixtures pin.
  bool rank_causal = false;          // causal by ranks inside the window instead of positions
  // Padded rows were routed like others (1 = padded, (B, rows), or null). A padded query sees the cluster's memory alone, with
  // self_penalty itself. A query that nothing is left for gets the plain mean of the cluster's keys: `uniform_rows` is the first of as
  // many memory rows as there are keys, with keys of zeros and the tokens' values.
  const uint8_t *query_padding = nullptr, *key_padding = nullptr;
  bool padding_is_routed = false;
  int64_t uniform_rows = 0;
};

// What building takes; kept between calls, so that a steady state allocates nothing.
struct RoutingMemory {
  TokenGroups groups;
  std::vector<int32_t> query_order, query_ends, key_order, key_ends;
};

// Balanced: the queries of a cluster meet its keys, memory first; a query's output is the mean over its clusters. Nearest: each
// query stands in one cluster, and meets the keys of the block that it falls into by its position, of the block before, and (not
// causal) of the block after. Prefix keys are in every group, and prefix queries are a group of their own against all keys.
const TokenGroups& build_routing_groups(const RoutingGroups& routing, RoutingMemory& memory);

}  // namespace fovea
