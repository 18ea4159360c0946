// A block of SST (Fan et al. 2021, 2112.06375): two transformer blocks, whose regions differ by half a window.
#pragma once

#include "attention/regional.h"
#include "blocks/transformer_block.h"

namespace fovea {

class RegionalBlock {
 public:
  // Parameters scope/encoder_list/{0, 1} as TransformerBlock has them. `config` describes each of the two but for its attention.
  RegionalBlock(const Scope& scope, const BlockConfig& config, const RegionalConfig& regional);

  // As TransformerBlock's.
  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const;
  void backward(Tensor gradient, Tape& tape, Context& ctx) const;

 private:
  TransformerBlock first_, second_;
};

}  // namespace fovea
