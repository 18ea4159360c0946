#include "models/stage_blocks.h"

#include <algorithm>
#include <numeric>

#include "blocks/forward_blocks.h"

namespace fovea {

void require_stages(const ModelConfig& c) {
  const size_t specs = parse_attention_stages(c.attention).size();
  require(specs <= c.depths.size(), "attention '{}' names {} stages; this model has {}", c.attention, specs, c.depths.size());
}

StageBlocks::StageBlocks(const Scope& scope, const ModelConfig& c, size_t stage, int64_t max_tokens,
                         const std::string& attention_scope) {
  const auto specs = parse_attention_stages(c.attention);
  const int64_t channels = c.dim << stage;
  const int64_t total = std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0});
  const int64_t before = std::accumulate(c.depths.begin(), c.depths.begin() + static_cast<std::ptrdiff_t>(stage), int64_t{0});
  for (int64_t i = 0; i < c.depths[stage]; ++i) {
    BlockConfig b;
    b.attention = specs[std::min(stage, specs.size() - 1)];
    b.attention_scope = attention_scope;
    b.heads.dim = channels;
    b.heads.heads = c.stage_heads[stage];
    b.heads.qkv_bias = c.qkv_bias;
    b.heads.qk_norm = c.qk_norm;
    b.heads.norm_epsilon = c.norm_epsilon;
    b.heads.block = i;
    b.heads.max_tokens = max_tokens;
    b.mlp_hidden = static_cast<int64_t>(static_cast<double>(channels) * c.mlp_ratio);
    b.activation = activation_named(c.activation);
    b.norm = c.swin_v2() ? NormPlacement::kResPost : NormPlacement::kPre;
    b.norm_epsilon = c.norm_epsilon;
    b.layer_scale = c.layer_scale;
    b.dropout = c.dropout;
    b.drop_path = total > 1 ? c.drop_path * static_cast<double>(before + i) / static_cast<double>(total - 1) : 0;
    b.tag = static_cast<uint64_t>(before + i);
    blocks_.emplace_back(scope / i, b);
  }
}

Tensor StageBlocks::forward(Tensor x, const TokenGrid& grid, Tape* tape, Context& ctx) const {
  return forward_blocks(blocks_, x, grid, tape, ctx);
}

void StageBlocks::backward(Tensor gradient, Tape& tape, Context& ctx) const {
  for (size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(gradient, tape, ctx);
}

std::vector<std::string> StageBlocks::unsupported(const TokenGrid& grid) const {
  return blocks_.empty() ? std::vector<std::string>() : blocks_.front().attention().unsupported(grid);
}

double StageBlocks::flops(const TokenGrid& grid) const { return flops_of(blocks_, grid); }

void StageBlocks::end_step(Context& ctx) {
  for (TransformerBlock& block : blocks_) block.end_step(ctx);
}

}  // namespace fovea
