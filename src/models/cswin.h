// The hierarchical backbone of CSWin (Dong et al. 2021, 2107.00652), parameter names as in microsoft/CSWin-Transformer: an
// overlapping stem, stages of blocks, and an overlapping convolution between stages.
#pragma once

#include <deque>
#include <optional>

#include "blocks/conv_merging.h"
#include "models/backbone.h"
#include "models/stage_blocks.h"

namespace fovea {

class CSwinTransformer : public Backbone {
 public:
  // Parameters scope/{stage1_conv_embed/{0, 2}, stageS/B, mergeS, norm}; with config.pyramid_norms normS after each stage
  // instead of norm, and the features are the last of these maps.
  CSwinTransformer(const Scope& scope, const ModelConfig& config);

  const ModelConfig& config() const override { return config_; }
  BackboneOutput forward(ConstTensor images, Tape* tape, Context& ctx) const override;
  // dfeatures may be empty, too.
  void backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(int64_t height, int64_t width) const override;
  double flops(int64_t batch, int64_t height, int64_t width) const override;
  int64_t channels() const override { return stages_.back().channels; }
  void end_step(Context& ctx) override;

 private:
  struct Stage {
    int64_t channels;
    std::optional<ConvMerging> merge;  // before the blocks; not in the first stage
    StageBlocks blocks;
    std::optional<LayerNorm> norm;     // of the pyramid's map

    Stage(const Scope& scope, const ModelConfig& config, size_t stage, const TokenGrid& in);  // `in` at the model's own size
    TokenGrid out_grid(const TokenGrid& in) const { return merge ? ConvMerging::merged(in) : in; }
  };
  TokenGrid embedded(int64_t batch, int64_t height, int64_t width) const;

  ModelConfig config_;
  Conv2d stem_;
  LayerNorm stem_norm_;
  std::deque<Stage> stages_;
  std::optional<LayerNorm> norm_;
};

}  // namespace fovea
