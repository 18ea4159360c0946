// ViT, DeiT, DeiT III and DINOv2 (Dosovitskiy et al. 2020, 2010.11929; Touvron et al. 2020, 2012.12877, and 2022, 2204.07118; Oquab et al.
// 2023, 2304.07193; registers: Darcet et al. 2023, 2309.16588), parameter names as in timm.
#pragma once

#include <deque>
#include <optional>

#include "embed/patch_embed.h"
#include "embed/token_embed.h"
#include "models/backbone.h"

namespace fovea {

class VisionTransformer : public Backbone {
 public:
  VisionTransformer(const Scope& scope, const ModelConfig& config);

  const ModelConfig& config() const override { return config_; }
  BackboneOutput forward(ConstTensor images, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(int64_t height, int64_t width) const override;
  double flops(int64_t batch, int64_t height, int64_t width) const override;
  int64_t channels() const override { return config_.dim; }
  void end_step(Context& ctx) override;

 private:
  TokenGrid grid_of(int64_t batch, int64_t height, int64_t width) const;

  ModelConfig config_;
  PatchEmbed patch_embed_;
  TokenEmbed tokens_;
  std::optional<LayerNorm> norm_pre_;
  std::deque<TransformerBlock> blocks_;
  std::optional<LayerNorm> norm_;
};

// The tokens of such a model and its position table.
TokenEmbedConfig vit_tokens(const ModelConfig& config);

}  // namespace fovea
