// The hierarchical backbones of Swin (Liu et al. 2021, 2103.14030) and Swin V2 (2111.09883), parameter names as in timm: patch
// embedding, stages of blocks, and merging at the start of every stage but the first. They differ in where norms stand; which
// attention runs is the SPEC's choice in both.
#pragma once

#include <deque>
#include <optional>

#include "blocks/patch_merging.h"
#include "embed/patch_embed.h"
#include "embed/token_embed.h"
#include "models/backbone.h"
#include "models/stage_blocks.h"

namespace fovea {

// One stage: merging (but in the first), then its blocks.
class SwinStage {
 public:
  // Parameters scope/downsample, scope/blocks/I. `in`: the stage's input at the size that the model is built for.
  SwinStage(const Scope& scope, const ModelConfig& config, size_t stage, const TokenGrid& in);

  TokenGrid out_grid(const TokenGrid& in) const { return downsample_ ? PatchMerging::merged(in) : in; }
  int64_t channels() const { return channels_; }

  // The two halves, so that a caller may tap the map between them (Microsoft's code counts merging to the stage before).
  // merge returns its input where there is no merging.
  Tensor merge(Tensor x, const TokenGrid& in, Tape* tape, Context& ctx) const;
  Tensor merge_backward(Tensor gradient, const TokenGrid& in, Tape& tape, Context& ctx) const;
  const StageBlocks& blocks() const { return blocks_; }
  StageBlocks& blocks() { return blocks_; }
  double flops(const TokenGrid& in) const;

 private:
  int64_t channels_;
  std::optional<PatchMerging> downsample_;
  StageBlocks blocks_;
};

class SwinTransformer : public Backbone {
 public:
  // Parameters scope/{patch_embed, absolute_pos_embed, layers/S, norm}; with config.pyramid_norms normS after stage S, from first_pyramid_norm on, instead
  // of norm, and the features are the last of these maps.
  SwinTransformer(const Scope& scope, const ModelConfig& config);

  const ModelConfig& config() const override { return config_; }
  BackboneOutput forward(ConstTensor images, Tape* tape, Context& ctx) const override;
  // dfeatures may be empty, too.
  void backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(int64_t height, int64_t width) const override;
  double flops(int64_t batch, int64_t height, int64_t width) const override;
  int64_t channels() const override { return stages_.back().channels(); }
  void end_step(Context& ctx) override;

  const PatchEmbed& patch_embed() const { return patch_embed_; }
  const std::deque<SwinStage>& stages() const { return stages_; }
  const LayerNorm& norm() const { return *norm_; }

 private:
  ModelConfig config_;
  PatchEmbed patch_embed_;
  std::optional<TokenEmbed> positions_;             // with config.absolute_positions
  std::deque<SwinStage> stages_;
  std::deque<std::optional<LayerNorm>> map_norms_;  // of each stage, where its map has one
  std::optional<LayerNorm> norm_;
};

}  // namespace fovea
