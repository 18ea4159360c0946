// Sparse regional attention (SST, Fan et al. 2021, 2112.06375): the tokens of a window meet, as many as there are, and their place in
// the window is added to what queries and keys are projected from.
#pragma once

#include "attention/multi_head.h"
#include "attention/regions.h"

namespace fovea {

struct RegionalConfig {
  RegionConfig region;
  bool normalise = false;        // places in [-pi, pi] instead of cells
  double temperature = 10000;    // of the sinusoids' frequencies
};

// Place of each cell of a window, (cells, C): for x, y and (windows of more than one cell in depth) z, C / axes sinusoids of the
// distance from the window's centre, sine and cosine in turn; zeros behind them.
std::vector<double> region_positions(const RegionalConfig& config, int64_t channels);

class RegionalGeometry : public AttentionGeometry {
 public:
  RegionalGeometry(const AttentionConfig& config, const RegionalConfig& regional);

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  bool has_position() const override { return true; }
  void position(const AttentionInputs& in, Tensor p, Context& ctx) const override;

 private:
  std::string key(const TokenGrid& grid) const;
  const Regions& regions(const TokenGrid& grid, Context& ctx) const;

  RegionalConfig regional_;
  int64_t dim_;
  bool cross_;
};

class RegionalAttention : public MultiHeadAttention {
 public:
  RegionalAttention(const Scope& scope, const AttentionConfig& config, const RegionalConfig& regional)
      : MultiHeadAttention(scope, config, std::make_unique<RegionalGeometry>(config, regional)) {}
};

}  // namespace fovea
