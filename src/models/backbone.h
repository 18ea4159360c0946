// Backbones: from normalised images to tokens and, where the model is hierarchical, a feature pyramid.
#pragma once

#include <memory>

#include "models/config.h"

namespace fovea {

struct FeatureMap {
  Tensor tokens;   // (B, N, C)
  TokenGrid grid;
  int64_t stride = 0;  // input pixels a token side
};

struct BackboneOutput {
  Tensor features;                  // (B, N, C) after the last norm; avg-pooled ViTs: before it (their norm follows the pooling)
  TokenGrid grid;                   // of features
  std::vector<FeatureMap> pyramid;  // hierarchical models: each stage's output before merging (4x, 8x, 16x, 32x)
};

class Backbone {
 public:
  virtual ~Backbone() = default;
  virtual const ModelConfig& config() const = 0;

  // images (B, channels, H, W), any H and W. Without a tape the output lives in ctx.scratch(): the caller holds an
  // ArenaScope around its use. With one it lives on the tape.
  virtual BackboneOutput forward(ConstTensor images, Tape* tape, Context& ctx) const = 0;
  // dfeatures (B, N, C); dpyramid: one (B, N, C) a stage, or empty tensors, or an empty vector. dimages may be empty.
  virtual void backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape, Context& ctx) const = 0;

  // Reasons why images of this size cannot run; empty when they can.
  virtual std::vector<std::string> unsupported(int64_t height, int64_t width) const = 0;
  virtual double flops(int64_t batch, int64_t height, int64_t width) const = 0;  // multiply-adds times two, by definition
  virtual int64_t channels() const = 0;                                          // C of features
  virtual void end_step(Context& ctx) = 0;
};

std::unique_ptr<Backbone> make_backbone(const ModelConfig& config, const Scope& scope);

}  // namespace fovea
