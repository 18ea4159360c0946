// Sparse Transformer: factorized patterns (Child et al. 2019, 1904.10509).
#pragma once

#include "attention/geometry.h"
#include "attention/sparse_groups.h"

namespace fovea {

class SparseGeometry : public AttentionGeometry {
 public:
  explicit SparseGeometry(const SparseConfig& config, bool cross = false) : config_(config), cross_(cross) {}

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override;
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  bool keys_share_projection() const override { return true; }

 private:
  SparseConfig config_;
  bool cross_;
};

}  // namespace fovea
