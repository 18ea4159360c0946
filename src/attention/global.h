// Global multi-head attention: every query meets every key (Vaswani et al. 2017, 1706.03762; Dosovitskiy et al. 2020, 2010.11929).
#pragma once

#include "attention/multi_head.h"

namespace fovea {

class GlobalGeometry : public AttentionGeometry {
 public:
  // Keys before `first_key` are left out (prefix tokens, where a latent query pools the map).
  explicit GlobalGeometry(int64_t first_key = 0) : first_key_(first_key) {}

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override;
  double pairs(const TokenGrid& grid) const override;

 private:
  int64_t first_key_;
};

class GlobalAttention : public MultiHeadAttention {
 public:
  GlobalAttention(const Scope& scope, const AttentionConfig& config)
      : MultiHeadAttention(scope, config, std::make_unique<GlobalGeometry>()) {}
};

}  // namespace fovea
