// From an image to a map of tokens.
#pragma once

#include <deque>
#include <optional>

#include "ops/conv2d.h"
#include "ops/layer_norm.h"

namespace fovea {

struct PatchEmbedConfig {
  int64_t in_channels = 3, dim = 96, patch = 4;
  bool norm = false;            // LayerNorm on the tokens (Swin)
  double norm_epsilon = 1e-5;
  // Early convolutions (Xiao et al. 2021, 2106.14881) instead of one patch x patch convolution: 3x3 convolutions with
  // LayerNorm and GELU between them, which learn faster from few images. `patch` is then 2, 4, 8 or 16.
  bool convolutional_stem = false;
  bool bias = true;             // of proj, without a stem
  bool drop_rest = false;       // pixels beyond the last whole patch are left out instead of filled up with zeros; without a stem
};

class PatchEmbed {
 public:
  // Parameters scope/proj (and scope/norm); with the stem also scope/stem/I/{conv, norm}.
  PatchEmbed(const Scope& scope, const PatchEmbedConfig& config);

  int64_t out_height(int64_t height) const;  // rounded up, or down with drop_rest
  int64_t out_width(int64_t width) const;

  void forward(ConstTensor images /* (B, C, H, W) */, Tensor y /* (B, h w, dim) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dimages /* written; empty: not wanted */, Tape& tape, Context& ctx) const;

  double flops(int64_t batch, int64_t height, int64_t width) const;

 private:
  struct StemLayer {
    Conv2d conv;
    LayerNorm norm;
  };
  PatchEmbedConfig config_;
  std::deque<StemLayer> stem_;
  std::optional<Conv2d> proj_;
  std::optional<LayerNorm> norm_;
};

}  // namespace fovea
