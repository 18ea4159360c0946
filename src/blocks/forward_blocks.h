// Blocks one after the other over the same tokens.
#pragma once

#include <deque>

#include "blocks/transformer_block.h"

namespace fovea {

// x (B, N, C) through all blocks. Without a tape they work in x and return it, and go depth first where that is possible: each
// block runs as a whole over one part of the tokens after the other, so that what it computes on the way stays in the caches. Parts are images, or
// bands of a map whose tokens meet only each other (Attention::bands). Each thread takes its images through all blocks, or, where these do not share
// out, parts of its own through each block; where there is one part for several threads, rows of its own between attentions (Attention::steps).
Tensor forward_blocks(const std::deque<TransformerBlock>& blocks, Tensor x, const TokenGrid& grid, Tape* tape, Context& ctx);

// Of all blocks on these tokens, of which all even ones cost the same, and all odd ones (AttentionConfig::block).
double flops_of(const std::deque<TransformerBlock>& blocks, const TokenGrid& grid);

}  // namespace fovea
