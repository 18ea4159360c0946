#include "blocks/regional_block.h"

namespace fovea {

namespace {

TransformerBlock half(const Scope& scope, BlockConfig config, RegionalConfig regional, bool shifted) {
  regional.region.shifted = shifted;
  config.heads.block = shifted;
  config.tag = 2 * config.tag + (shifted ? 1 : 0);
  return {scope, config, std::make_unique<RegionalAttention>(scope / "attn", config.heads, regional)};
}

}  // namespace

RegionalBlock::RegionalBlock(const Scope& scope, const BlockConfig& config, const RegionalConfig& regional)
    : first_(half(scope / "encoder_list" / 0, config, regional, false)), second_(half(scope / "encoder_list" / 1, config, regional, true)) {}

void RegionalBlock::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Tensor middle = tape ? ctx.activation(in.x.shape, tape) : y;
  first_.forward(in, middle, tape, ctx);
  AttentionInputs next = in;
  next.x = middle;
  second_.forward(next, y, tape, ctx);
}

void RegionalBlock::backward(Tensor gradient, Tape& tape, Context& ctx) const {
  second_.backward(gradient, tape, ctx);
  first_.backward(gradient, tape, ctx);
}

}  // namespace fovea
