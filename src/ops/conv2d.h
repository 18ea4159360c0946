// Two-dimensional convolution as a matrix product over patches; the output is a map of tokens (B, H', W', C').
#pragma once

#include "ops/layer_norm.h"

namespace fovea {

// How a map lies in memory.
enum class MapLayout : uint8_t { kChannelsFirst /* (B, C, H, W), images */, kChannelsLast /* (B, H, W, C), tokens */ };

struct Conv2dShape {
  int64_t in = 3, out = 96;
  int64_t kernel_h = 4, kernel_w = 4;
  int64_t stride_h = 4, stride_w = 4;
  int64_t pad = 0;             // zeros on every side
  bool cover_rest = false;     // a rest smaller than the stride at the right and bottom gets a patch of its own, filled with zeros
  bool at_least_one = false;   // a map smaller than the kernel gets one patch, filled with zeros at the right and bottom
};

class Conv2d {
 public:
  // Parameters scope/weight (out, in, kernel_h, kernel_w) and scope/bias (out).
  Conv2d(const Scope& scope, const Conv2dShape& shape, Bias bias, MapLayout layout);

  int64_t out_height(int64_t height) const;
  int64_t out_width(int64_t width) const;
  const Conv2dShape& shape() const { return shape_; }
  void set_outermost() { weight_->outermost = true; }

  void forward(ConstTensor x /* (B, C, H, W) or (B, H, W, C) */, Tensor y /* (B, H', W', C') */, Tape* tape, Context& ctx) const;
  // The same, then `norm` unless it is null, for an inference: a few lines of the map at a time, which stay in the caches from the pixels to the norm.
  void infer(ConstTensor x, const LayerNorm* norm, Tensor y, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dx /* like x, written; empty: not wanted */, Tape& tape, Context& ctx) const;

 private:
  PatchesArgs patches_of(const Shape& x) const;  // checks it
  void multiply(const PatchesArgs& p, const void* x, void* y, Context& ctx) const;

  Conv2dShape shape_;
  MapLayout layout_;
  Param* weight_;
  Param* bias_ = nullptr;
};

}  // namespace fovea
