// The log-spaced continuous position bias of Swin V2 (Liu et al. 2021, 2111.09883, section 3.3): a small perceptron gives the bias
// of every offset inside a window, so that one set of parameters serves windows of any size.
#pragma once

#include "ops/linear.h"

namespace fovea {

// A window and what its offsets are measured against.
struct OffsetTable {
  int64_t window_h = 1, window_w = 1;
  int64_t reference_h = 1, reference_w = 1;  // the window that the parameters were trained with
  int64_t rows() const { return (2 * window_h - 1) * (2 * window_w - 1); }
};

class ContinuousPositionBias {
 public:
  // Parameters scope/cpb_mlp.0 (512, 2) with bias, scope/cpb_mlp.2/weight (H, 512).
  ContinuousPositionBias(const Scope& scope, int64_t heads);

  // table (rows, H): 16 sigmoid(W2 relu(W1 t + b1)), row (dy + Wh - 1)(2 Ww - 1) + dx + Ww - 1 for the offset (dy, dx).
  void forward(const OffsetTable& offsets, Tensor table, Context& ctx) const;
  void backward(const OffsetTable& offsets, ConstTensor dtable, Context& ctx) const;

  double flops(const OffsetTable& offsets) const;

 private:
  Tensor coordinates(const OffsetTable& offsets, Context& ctx) const;  // (rows, 2) in scratch

  Linear fc1_, fc2_;
};

}  // namespace fovea
