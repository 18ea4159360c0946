// The factorized patterns of the Sparse Transformer (Child et al. 2019, 1904.10509) as token groups: blocks, residue classes,
// rows and columns as strided runs, so that time and description are O(N sqrt N) and nothing is done query by query.
#pragma once

#include "kernels/token_groups.h"

namespace fovea {

struct SparseConfig {
  // Two factors each. On a sequence, stride l: strided = {i - j < l, l divides i - j}, fixed = {the same block of l,
  // the summary rows of every block}; without causal order the same on both sides. On a map: strided = {the same row, the same
  // column}, fixed = {the same block of l x l cells, the summary cells of every block}.
  enum class Pattern : uint8_t { kStrided, kFixed } pattern = Pattern::kStrided;
  enum class Factors : uint8_t {
    kMerged,  // both in one softmax
    kHeads,   // even heads the first, odd heads the second
    kFirst,
    kSecond,
  } factors = Factors::kMerged;
  int64_t stride = 0;     // l; 0: so that both factors have about as many keys
  int64_t summary = 0;    // c rows of a block, its last ones; 0: an eighth of the block, one at least
  // Heads 0, 1, ..., verticals - 1, 0, ... take the last, the last but one, ... c rows of a block as summary.
  int64_t verticals = 1;
};

// The tokens of a mechanism that knows sequences and maps.
struct SparseTokens {
  int64_t prefix = 0, height = 0, width = 0;
  bool causal = false;    // all tokens, prefix first, are one sequence
  int64_t map() const { return height * width; }
  bool sequence() const { return causal || height <= 1 || width <= 1; }
};

int64_t sparse_stride(const SparseConfig& config, const SparseTokens& tokens);

// Prefix tokens meet everybody, and everybody meets them (without causal order).
TokenGroups sparse_groups(const SparseConfig& config, const SparseTokens& tokens);

// The same as predicates: pattern h % size for head h.
std::vector<PairPattern> sparse_pattern(const SparseConfig& config, const SparseTokens& tokens);

// Pairs that meet without causal order, the mean over the heads.
double sparse_pairs(const SparseConfig& config, const SparseTokens& tokens);

}  // namespace fovea
