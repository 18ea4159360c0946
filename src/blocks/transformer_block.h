// A transformer block: attention and perceptron, each in a residual branch with a layer norm, or several of each side by side (Touvron et al.
// 2022, 2203.09795).
#pragma once

#include <deque>

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
  int64_t parallel = 1;             // attentions that read the block's input, whose outputs are added, and perceptrons that read their sum
  uint64_t tag = 0;                 // index of the block in the model: tells its random numbers apart
  std::string attention_scope = "attn";  // where the attention's parameters stand; empty: beside the norms (CSWin)
};

class TransformerBlock {
 public:
  // Parameters scope/{norm1, attn, ls1, norm2, mlp, ls2}, attn as config.attention_scope says; of parallel ones
  // scope/attns/I/{norm, attn, ls}, scope/ffns/I/{norm, mlp, ls}.
  TransformerBlock(const Scope& scope, const BlockConfig& config);
  // The same around an attention that the caller made under scope/attn.
  TransformerBlock(const Scope& scope, const BlockConfig& config, std::unique_ptr<Attention> attention);

  // in.x is the block's input; in.residual must be empty. Without a tape y may be in.x.
  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const;
  // An inference in steps (Attention::steps), where norms stand before branches and no two of these side by side: what a block does to each
  // token before it meets others, and after that. x (1, n, C) are any of the tokens, the others those tokens' rows.
  std::optional<AttentionSteps> steps(const TokenGrid& grid, Context& ctx) const;
  void enter_rows(ConstTensor x, Tensor projected, Context& ctx) const;
  void leave_rows(ConstTensor met, Tensor x, Context& ctx) const;
  // `gradient` (B, N, C) holds dy and receives dx.
  void backward(Tensor gradient, Tape& tape, Context& ctx) const;

  const Attention& attention() const { return *attentions_.front().attention; }  // of parallel ones the first; they meet alike
  double flops(const TokenGrid& grid) const;
  void end_step(Context& ctx);

 private:
  // Members are made in the order of use, and with them the parameters.
  struct AttentionBranch {
    LayerNorm norm;
    std::unique_ptr<Attention> attention;
    Residual residual;
  };
  struct MlpBranch {
    LayerNorm norm;
    Mlp mlp;
    Residual residual;
  };

  void attend(const AttentionBranch& branch, const AttentionInputs& in, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const;
  void attend_backward(const AttentionBranch& branch, ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const;
  void perceive(const MlpBranch& branch, ConstTensor x, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const;
  void perceive_backward(const MlpBranch& branch, ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const;

  NormPlacement placement_;
  std::deque<AttentionBranch> attentions_;
  std::deque<MlpBranch> perceptrons_;
};

}  // namespace fovea
