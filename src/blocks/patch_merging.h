// Patch merging of hierarchical backbones: four neighbours become one token of twice the width (Liu et al. 2021, section 3.1).
#pragma once

#include "attention/attention.h"
#include "ops/layer_norm.h"

namespace fovea {

enum class MergingNorm : uint8_t {
  kBefore,  // of the 4 C joined channels: Swin
  kAfter,   // of the 2 C that come out: Swin V2
};

class PatchMerging {
 public:
  // Parameters scope/norm (4 C or 2 C), scope/reduction/weight (2 C, 4 C).
  PatchMerging(const Scope& scope, int64_t dim, double norm_epsilon, MergingNorm placement = MergingNorm::kBefore);

  static TokenGrid merged(const TokenGrid& grid);  // half of each side, rounded up: an odd side is padded with zeros

  void forward(ConstTensor x /* (B, H W, C) */, const TokenGrid& grid, Tensor y /* (B, H' W', 2 C) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dx /* written */, Tape& tape, Context& ctx) const;

  double flops(const TokenGrid& grid) const;

 private:
  int64_t dim_;
  MergingNorm placement_;
  LayerNorm norm_;
  Linear reduction_;
};

}  // namespace fovea
