// Blocked local attention: blocks of a sequence and their neighbours, as lucidrains' local-attention and the local heads of
// Performer and Routing Transformer use it.
#pragma once

#include "attention/geometry.h"
#include "attention/local_groups.h"

namespace fovea {

class LocalGeometry : public AttentionGeometry {
 public:
  explicit LocalGeometry(const LocalConfig& config, bool cross = false) : config_(config), cross_(cross) {}

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override;
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  bool keys_share_projection() const override { return true; }

 private:
  LocalConfig config_;
  bool cross_;
};

}  // namespace fovea
