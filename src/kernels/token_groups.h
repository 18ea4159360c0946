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

#include "kernels/pair_pattern.h"

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
  bool free = false;  // keys: the position rules do not hold for these (prefix tokens, global tokens); padding and mask do
};

// Rules that hold for every pair of a group. Positions are row numbers, or cells of a map; pad keys, memory rows and free
// runs are never excluded by a position rule (all but region_penalty).
struct PairRule {
  bool causal = false;               // key position <= query position
  int32_t query_position_shift = 0;  // added to the query's row number first (cross attention with a longer key side)
  int32_t band = -1;                 // >= 0: |query - key| <= band * dilation, and dilation divides the difference
  int32_t dilation = 1;
  // > 0: row r stands at cell r - first_row of a map so wide, and the band holds on both axes; no causal order, no shift.
  // Rows before first_row: as queries in groups without such a rule, as keys in free runs.
  int32_t map_width = 0;
  int32_t first_row = 0;
  // Where slots carry labels, a pair whose labels differ gets this added to its score: -100 for checkpoints that were
  // trained so (Swin), -infinity to forbid it. A label of -1 differs from none.
  float region_penalty = -std::numeric_limits<float>::infinity();
  float self_penalty = 0;            // added where query position == key position (Routing with shared q and k: -5e4)

  // Pairs of token rows that have no score here: those of a term of TokenGroups::terms. By row numbers, without the shift.
  struct Exclusion {
    int32_t term = 0;
    bool of_free = false;            // free runs are not exempt from this one (unions: an earlier part has the pair)
  };
  std::vector<Exclusion> exclusions;

  bool looks_at_positions() const { return causal || band >= 0 || self_penalty != 0; }
};

constexpr int32_t kAnyLabel = -1;  // a slot label that differs from none

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
    int32_t rule = 0;                            // of `rules`; none where there is no such rule (-1, or no rules at all)
    int32_t bias = 0;                            // of `biases`: the table that this group's scores get; -1: none
    bool mixed_labels = false;                   // some pair's labels differ: the region rule matters
    bool free_keys = false;                      // some key run is free
  };

  std::vector<Run> runs;
  std::vector<Group> groups;
  std::vector<int32_t> query_labels, key_labels;  // per slot; empty: no region rule
  std::vector<PairRule> rules;
  std::vector<PairTerm> terms;                    // what rules exclude
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

  // Tables of a score bias by slot: for each, (heads, queries, keys), one behind the other. Sizes are the largest of the
  // groups that use the table, so that one group of everybody (without a bias) does not blow them up.
  struct Bias {
    int64_t offset = 0;  // elements of a head in the tables before this one
    int32_t queries = 0, keys = 0;
    int64_t elements() const { return int64_t{queries} * keys; }
  };
  std::vector<Bias> biases;
  int64_t bias_elements() const { return biases.empty() ? 0 : biases.back().offset + biases.back().elements(); }  // of a head

  const Range& range(int64_t batch, int64_t head) const {
    return ranges[static_cast<size_t>((batch % batches) * heads + head % heads)];
  }
  const PairRule& rule_of(const Group& group) const;
  bool selects_pairs() const;  // some rule looks at positions, or excludes pairs
  PairRule& only_rule();  // the rule of every group that names none itself; made at the first call

  // Building: add the runs of a group's queries, then of its keys, then call end_group(). finish() closes the description
  // (one range over everything unless ranges were given) and fills the totals; call it once more after a change by hand.
  void begin_group(int32_t rule = 0, int32_t bias = 0);
  void add_query_run(const Run& run);
  void add_key_run(const Run& run);  // all query runs of the group come first
  void end_group();
  void finish();

  // For groups that are built anew in each call: forgets everything but the memory.
  void clear();
  // The groups that follow are those of the next range, whose slots count from zero again, so that log-sum-exps stay as many
  // as the largest range has slots. Labels do not go with it.
  void begin_range();
  int64_t most_query_slots = 0, most_key_slots = 0;  // of the ranges before the current one
  bool range_open = false;                           // begin_range was called: groups go to the last range
};

}  // namespace fovea
