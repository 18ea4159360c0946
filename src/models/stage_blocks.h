// The transformer blocks of one stage of a hierarchical backbone, built from the model's configuration.
#pragma once

#include <deque>

#include "models/config.h"

namespace fovea {

// Throws Error where the attention names more stages than there are.
void require_stages(const ModelConfig& config);

class StageBlocks {
 public:
  // Parameters scope/I for block I; `max_tokens` as in AttentionConfig, `attention_scope` as in BlockConfig.
  StageBlocks(const Scope& scope, const ModelConfig& config, size_t stage, int64_t max_tokens,
              const std::string& attention_scope = "attn");

  // Without a tape the blocks work in x and return it.
  Tensor forward(Tensor x /* (B, N, C) */, const TokenGrid& grid, Tape* tape, Context& ctx) const;
  void backward(Tensor gradient /* holds dy, receives dx */, Tape& tape, Context& ctx) const;

  std::vector<std::string> unsupported(const TokenGrid& grid) const;
  double flops(const TokenGrid& grid) const;
  void end_step(Context& ctx);

 private:
  std::deque<TransformerBlock> blocks_;
};

}  // namespace fovea
