// The geometry of a softmax mechanism: who meets whom, and what place adds to a score.
#pragma once

#include "attention/attention.h"
#include "kernels/token_groups.h"

namespace fovea {

class AttentionGeometry {
 public:
  virtual ~AttentionGeometry() = default;

  // Who meets whom; the reference stays valid as long as the context, or, for occupied cells, until the next call.
  virtual const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const = 0;
  // The same as a predicate, for unions: one pattern for all heads, or pattern h % size for head h. Self attention only.
  virtual std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const;
  // Pairs of a query and a key that meet, per head and batch element, padding not counted.
  virtual double pairs(const TokenGrid& grid) const = 0;
  // Every reason why the mechanism cannot run on such tokens, as sentences.
  virtual std::vector<std::string> unsupported(const TokenGrid& grid) const;
  // Every key that a query meets is this layer's projection of a token. A bias of all keys then adds the same to each score of
  // a query, so that it has no gradient (but for norms of q and k), and none is summed up from rounding errors.
  virtual bool keys_share_projection() const { return false; }

  // What place adds to the tokens that queries and keys (not values) are projected from: p (N, C), all of it written, for each
  // batch element alike.
  virtual bool has_position() const { return false; }
  virtual void position(const AttentionInputs& in, Tensor p, Context& ctx) const;

  // A score bias by slot, as groups.biases lays it out: (H * groups.bias_elements()), all of it written; and the way back from
  // its gradient to the parameters'.
  virtual bool has_score_bias() const { return false; }
  virtual void score_bias(const AttentionInputs& in, const TokenGroups& groups, Tensor bias, Context& ctx) const;
  virtual double score_bias_flops(const TokenGrid&) const { return 0; }  // beyond looking it up
  virtual void score_bias_backward(const AttentionInputs& in, const TokenGroups& groups, ConstTensor dbias, Context& ctx) const;
};

// Prefix tokens of a map: rows [0, prefix) meet every token both ways, without a position term. Their queries are a group of
// its own (slot labels, where the others carry some, are wildcards); as keys they are one more run, the last, of every other
// group, whose key labels are then to be followed by `prefix` wildcards.
void add_prefix_queries(TokenGroups& groups, int64_t prefix, int64_t tokens, bool labelled);
void add_prefix_keys(TokenGroups& groups, int64_t prefix);  // to the group that is being built
void add_prefix_terms(PairPattern& pattern, int64_t prefix, int64_t tokens);

}  // namespace fovea
