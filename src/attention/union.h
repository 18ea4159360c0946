// Unions: one softmax over the set union of several mechanisms' keys. No pair counts twice: a later part excludes what the
// earlier ones have, and the parts' softmaxes merge exactly through their log-sum-exp.
#pragma once

#include "attention/geometry.h"

namespace fovea {

class UnionGeometry : public AttentionGeometry {
 public:
  struct Part {
    std::string name;  // for messages
    std::unique_ptr<const AttentionGeometry> geometry;  // made as a part of a union
  };
  // `key` names everything that the parts' geometries depend on beside the tokens.
  UnionGeometry(std::string key, int64_t heads, std::vector<Part> parts);

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override;
  // Counted on at most 256 rows, evenly spaced, and on fewer of large maps.
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  bool keys_share_projection() const override;
  // A pair has the bias of the first part with a bias that has the pair.
  bool has_score_bias() const override;
  void score_bias(const AttentionInputs& in, const TokenGroups& groups, Tensor bias, Context& ctx) const override;
  void score_bias_backward(const AttentionInputs& in, const TokenGroups& groups, ConstTensor dbias, Context& ctx) const override;
  double score_bias_flops(const TokenGrid& grid) const override;

 private:
  TokenGroups merged(const AttentionInputs& in, Context& ctx) const;
  // f(part, its own groups, first element and number of elements of its tables) for each part with a score bias.
  template <class F>
  void for_each_bias(const AttentionInputs& in, Context& ctx, F&& f) const;

  std::string key_;
  int64_t heads_;
  std::vector<Part> parts_;  // those with a score bias first, so that no other part takes their pairs
};

}  // namespace fovea
