// Blocked local attention of a sequence as token groups: a block of queries meets the keys of its own block, of `back`
// blocks before and of `forward` blocks behind it.
#pragma once

#include "kernels/token_groups.h"

namespace fovea {

struct LocalConfig {
  int64_t window = 7;       // rows of a block
  int64_t back = 1;
  int64_t forward = 1;      // not used under causal order
  bool exact = false;       // and at most back · window rows before, forward · window rows behind: the same reach for every query
  float self_penalty = 0;   // added to a token's score with itself (-5e4 where queries and keys are shared)
};

// Rows [first, first + length) are the sequence; rows before meet everybody, and everybody meets them.
TokenGroups local_groups(const LocalConfig& config, int64_t first, int64_t length, bool causal);

// Pairs that meet without causal order.
double local_pairs(const LocalConfig& config, int64_t first, int64_t length);

}  // namespace fovea
