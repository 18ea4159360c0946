// Who meets whom, as plain data: the geometry of an attention mechanism. One grouped-softmax kernel executes it.
//
// A group is a list of query slots and a list of key slots; every query of the group meets every key of the group that
// the pair rules allow. Slots name rows through runs, so that a band over 64 k tokens stays small, and kernels read rows
// through the runs while packing: nothing is rolled, partitioned or reversed in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace fovea {

enum class RowSource : uint8_t {
  kToken,   // row of q, or of k and v
  kMemory,  // row of the second key/value source (memory slots, segment memory); keys only
  kPad,     // a position outside the map: the pad row (a given row, or zeros). As a query it is computed by nobody.
};

// Rows begin, begin + stride, ..., count of them (pad runs count only).
struct Run {
  int32_t begin = 0;
  int32_t stride = 1;
  int32_t count = 0;
  RowSource source = RowSource::kToken;
};

// Rules that hold for every pair of a group. Positions are row numbers (memory rows count as before all tokens and are
// never excluded by a rule; pad keys neither).
struct PairRule {
  bool causal = false;               // key position <= query position
  int32_t query_position_shift = 0;  // added to the query's row number first (cross attention with a longer key side)
  int32_t band = -1;                 // >= 0: |query - key| <= band * dilation, and dilation divides the difference
  int32_t dilation = 1;
  // Where slots carry labels, a pair whose labels differ gets this added to its score: -100 for checkpoints that were
  // trained so (Swin), -infinity to forbid it.
  float region_penalty = -std::numeric_limits<float>::infinity();
  float self_penalty = 0;            // added where query position == key position (Routing with shared q and k: -5e4)
};

// How the output of a query row that occurs in several slots is made.
enum class Reduction : uint8_t {
  kAssign,    // every row occurs once at most
  kMean,      // sum over its slots / (count + mean_epsilon)
  kMergeLse,  // exact softmax over the union of the slots' (disjoint) keys, through their log-sum-exp
};

struct TokenGroups {
  struct Group {
    int32_t query_runs = 0, query_runs_end = 0;  // [begin, end) in `runs`
    int32_t key_runs = 0, key_runs_end = 0;
    int32_t queries = 0, keys = 0;               // slots
    int64_t query_slot = 0, key_slot = 0;        // first slot: index into lse rows and labels
    bool mixed_labels = false;                   // some pair's labels differ: the region rule matters
  };

  std::vector<Run> runs;
  std::vector<Group> groups;
  std::vector<int32_t> query_labels, key_labels;  // per slot; empty: no region rule
  PairRule rule;
  Reduction reduction = Reduction::kAssign;
  double mean_epsilon = 0;                        // kMean

  // Which groups belong to a batch element and head: range (b % batches) * heads + h % heads of `ranges`, as
  // [begin, end) of `groups`. {1, 1} with one range: shared by all.
  struct Range {
    int32_t begin = 0, end = 0;
  };
  std::vector<Range> ranges;
  int64_t batches = 1, heads = 1;

  bool keys_disjoint = false;  // within a range no token key row occurs in two groups: backward may run them side by side
  int64_t query_slots = 0, key_slots = 0;
  int32_t max_queries = 0, max_keys = 0;  // over the groups

  const Range& range(int64_t batch, int64_t head) const {
    return ranges[static_cast<size_t>((batch % batches) * heads + head % heads)];
  }

  // Building: add the runs of a group's queries, then of its keys, then call end_group(). finish() closes the description
  // (one range over everything unless ranges were given) and fills the totals.
  void begin_group();
  void add_query_run(const Run& run);
  void add_key_run(const Run& run);  // all query runs of the group come first
  void end_group();
  void finish();
};

}  // namespace fovea
