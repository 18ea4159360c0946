// Merging by an overlapping convolution: 3x3 with stride 2 and padding 1, then a layer norm (Dong et al. 2021, 2107.00652, section 3.1).
#pragma once

#include "attention/attention.h"
#include "ops/conv2d.h"
#include "ops/layer_norm.h"

namespace fovea {

class ConvMerging {
 public:
  // Parameters scope/conv (to, from, 3, 3) and scope/norm (to).
  ConvMerging(const Scope& scope, int64_t from, int64_t to, double norm_epsilon);

  static TokenGrid merged(const TokenGrid& grid);  // half of each side, rounded up

  void forward(ConstTensor x /* (B, H W, from) */, const TokenGrid& grid, Tensor y /* (B, H' W', to) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dx /* written */, Tape& tape, Context& ctx) const;

  double flops(const TokenGrid& grid) const;

 private:
  int64_t from_, to_;
  Conv2d conv_;
  LayerNorm norm_;
};

}  // namespace fovea
