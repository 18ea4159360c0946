// Window attention of Swin V2 (Liu et al. 2021, 2111.09883): the windows of V1, scores by the cosine of q and k with a learned
// temperature, and a position bias that is a function of the offset instead of a table.
#pragma once

#include "attention/continuous_position_bias.h"
#include "attention/window.h"

namespace fovea {

struct WindowV2Config {
  WindowConfig window{8, 8, 0, 0, {}};
  int64_t pretrained_h = 0, pretrained_w = 0;  // window that offsets are measured against; 0: the one in use
};

class WindowV2Geometry : public WindowsGeometry {
 public:
  // Parameters scope/cpb_mlp.
  WindowV2Geometry(const Scope& scope, const AttentionConfig& config, const WindowV2Config& window);

  bool has_score_bias() const override { return true; }
  double score_bias_flops(const TokenGrid& grid) const override;
  void score_bias(const AttentionInputs& in, const TokenGroups& groups, Tensor bias, Context& ctx) const override;
  void score_bias_backward(const AttentionInputs& in, const TokenGroups& groups, ConstTensor dbias, Context& ctx) const override;

 private:
  OffsetTable offsets(const TokenGrid& grid) const;

  int64_t pretrained_h_, pretrained_w_;
  ContinuousPositionBias position_bias_;
};

class WindowV2Attention : public MultiHeadAttention {
 public:
  WindowV2Attention(const Scope& scope, const AttentionConfig& config, const WindowV2Config& window);
};

}  // namespace fovea
