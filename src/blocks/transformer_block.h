// A transformer block: attention and perceptron, each in a residual branch with a layer norm.
#pragma once

#include "attention/registry.h"
#include "blocks/mlp.h"
#include "ops/residual.h"

namespace fovea {

enum class NormPlacement : uint8_t {
  kPre,      // x + f(norm(x)): ViT, Swin
  kPost,     // norm(x + f(x)): Vaswani et al. 2017
  kResPost,  // x + norm(f(x)): Swin V2
};

struct BlockConfig {
  AttentionSpec attention{"global", {}};
  AttentionConfig heads;            // dim, heads, ...
  int64_t mlp_hidden = 0;
  Activation activation = Activation::kGelu;
  bool gated = false;               // a gated perceptron (mlp.h)
  NormPlacement norm = NormPlacement::kPre;
  double norm_epsilon = 1e-6;
  double layer_scale = 0;           // initial value; 0: none
  double dropout = 0, drop_path = 0;
  uint64_t tag = 0;                 // index of the block in the model: tells its random numbers apart
  std::string attention_scope = "attn";  // where the attention's parameters stand; empty: beside the norms (CSWin)
};

class TransformerBlock {
 public:
  // Parameters scope/{norm1, attn, ls1, norm2, mlp, ls2}; attn as config.attention_scope says.
  TransformerBlock(const Scope& scope, const BlockConfig& config);
  // The same around an attention that the caller made under scope/attn.
  TransformerBlock(const Scope& scope, const BlockConfig& config, std::unique_ptr<Attention> attention);

  // in.x is the block's input; in.residual must be empty. Without a tape y may be in.x.
  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const;
  // `gradient` (B, N, C) holds dy and receives dx.
  void backward(Tensor gradient, Tape& tape, Context& ctx) const;

  const Attention& attention() const { return *attention_; }
  Attention& attention() { return *attention_; }
  double flops(const TokenGrid& grid) const;

 private:
  void attend(const AttentionInputs& in, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const;
  void attend_backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const;

  NormPlacement placement_;
  // Construction order is the order of use, and with it that of the parameters.
  LayerNorm norm1_;
  std::unique_ptr<Attention> attention_;
  Residual residual1_;
  LayerNorm norm2_;
  Mlp mlp_;
  Residual residual2_;
};

}  // namespace fovea
