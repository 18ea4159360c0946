// Depthwise 3x3 convolution over the tokens of a map, a filter for each channel, inside blocks of the map.
#pragma once

#include "ops/linear.h"

namespace fovea {

// Blocks of height x width that tile a map from (-top, -left) on; see Depthwise3x3Args.
struct MapBlocks {
  int64_t height = 0, width = 0, top = 0, left = 0;
};

// The map that it runs over, rows of tokens wherever they lie in a buffer.
struct DepthwiseMap {
  int64_t batch = 0, height = 0, width = 0;
  MapBlocks blocks;
  const uint8_t* skip = nullptr;  // skip[b * skip_batch_stride + token] = 1: the token is not there; or null
  int64_t skip_batch_stride = 0;
};

class DepthwiseConv3x3 {
 public:
  // Parameters scope/weight (C, 1, 3, 3) and scope/bias (C).
  DepthwiseConv3x3(const Scope& scope, int64_t channels);

  int64_t channels() const { return channels_; }

  // y = residual + conv(x); y may be the residual. Views of one head of C elements; the caller keeps x for the backward.
  void forward(const DepthwiseMap& map, const ConstHeadsView& x, DType x_dtype, const ConstHeadsView& residual, const HeadsView& y, Context& ctx) const;
  // dx += the gradient, and the parameters' gradients.
  void backward(const DepthwiseMap& map, const ConstHeadsView& x, const ConstHeadsView& dy, const HeadsView& dx, Context& ctx) const;

  double flops(int64_t tokens) const { return 18.0 * static_cast<double>(tokens * channels_); }

 private:
  Depthwise3x3Args kernel_args(const DepthwiseMap& map, const ConstHeadsView& x) const;

  int64_t channels_;
  Param* weight_;
  Param* bias_;
};

}  // namespace fovea
