// Longformer as token groups: who is global, what the others see, what the global tokens see.
#pragma once

#include "attention/attention.h"
#include "kernels/pair_pattern.h"
#include "kernels/token_groups.h"

namespace fovea {

struct LongformerConfig {
  int64_t window = 7;                   // one side, in steps of the dilation: 2 window + 1 keys on a sequence
  std::vector<int64_t> dilation = {1};  // head h takes entry h % size
  int64_t globals = 0;                  // of a sequence: the first tokens behind the prefix are global as well
};

struct LongformerGroups {
  TokenGroups window;         // queries that are not global: the global tokens, and their window without them
  TokenGroups global;         // global queries, by their number among a sample's: everybody
  std::vector<int32_t> rows;  // (B, globals) rows of x that are global, -1 behind a sample's last
  int64_t globals = 0;        // of the sample with the most
};

// Tokens in front that are global: the prefix, and on a sequence (causal, or a map of one row) the first ones behind it.
int64_t longformer_globals(const LongformerConfig& config, const TokenGrid& grid, bool causal);
LongformerGroups longformer_groups(const LongformerConfig& config, const TokenGrid& grid, bool causal);

// The window alone, without global tokens, as a part of a union: prefix tokens of a map meet everybody both ways. As groups, and as
// a predicate for each entry of `dilation`.
TokenGroups longformer_pattern_groups(const LongformerConfig& config, const TokenGrid& grid, bool causal);
std::vector<PairPattern> longformer_patterns(const LongformerConfig& config, const TokenGrid& grid, bool causal);

// Longformer's groups where each sample says of its own tokens what they are.
struct LongformerStates : LongformerGroups {
  // token_states (B, N): -1 padding, 0 local, 1 global; on a map the prefix is global whatever it says, unless it is padding.
  // Does nothing when it was built for the same states last, so that the layers of a model share the work, and a backward
  // finds what its forward used.
  void build(const LongformerConfig& config, const TokenGrid& grid, bool causal, const int8_t* token_states);

 private:
  bool built_ = false;
  std::vector<int8_t> given_, states_;
};

}  // namespace fovea
