// Image classifiers: a backbone, a pooling and one linear head (two for distilled DeiT; none where a file holds features alone).
#pragma once

#include <array>
#include <optional>

#include "blocks/attention_pool.h"
#include "models/backbone.h"

namespace fovea {

class Classifier {
 public:
  // Builds the whole model; parameters are named as timm names them, cswin as its authors do. Memory comes with params().allocate().
  explicit Classifier(const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  const Backbone& backbone() const { return *backbone_; }
  Backbone& backbone() { return *backbone_; }

  // Heads: 1, 2 with a distillation token (class token's, distillation token's), or none with classes=0.
  int heads() const { return head_dist_ ? 2 : head_ ? 1 : 0; }

  struct Output {
    std::array<Tensor, 2> logits;  // (B, classes) each head; the second only where heads() == 2
    Tensor pooled;                 // (B, C) with pool=map: what attention pooling gives; empty while a model without head trains
    BackboneOutput backbone;
  };
  // images (B, channels, H, W). Memory as in Backbone::forward.
  Output forward(ConstTensor images, Tape* tape, Context& ctx) const;
  // Evaluation: the heads' mean, written to logits (B, classes); throws Error without a head. Leaves nothing in ctx.scratch().
  void classify(ConstTensor images, Tensor logits, Context& ctx) const;
  // dlogits as in Output; dfeatures (B, N, C) is added to the gradient of the features, or empty.
  void backward(const std::array<Tensor, 2>& dlogits, ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages,
                Tape& tape, Context& ctx) const;

  double flops(int64_t batch, int64_t height, int64_t width) const;

 private:
  Tensor pooled(const BackboneOutput& out, int head, Tape* tape, Context& ctx) const;
  ConstTensor represented(ConstTensor pooled, Tape* tape, Context& ctx) const;
  void pooled_backward(ConstTensor dpooled, int head, const TokenGrid& grid, Tensor dfeatures, Tape& tape, Context& ctx) const;

  ModelConfig config_;
  ParamStore params_;
  std::unique_ptr<Backbone> backbone_;
  std::optional<AttentionPool> attn_pool_;
  std::optional<LayerNorm> fc_norm_;
  std::optional<Linear> representation_, head_, head_dist_;
};

}  // namespace fovea
