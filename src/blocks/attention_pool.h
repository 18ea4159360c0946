// Attention pooling: one learned query meets all tokens of the map, and a perceptron follows. The head of SigLIP (Zhai et al. 2022, 2106.04560
// section 3.4, "MAP"; Zhai et al. 2023, 2303.15343); names as in timm's AttentionPoolLatent.
#pragma once

#include "attention/global.h"
#include "blocks/mlp.h"

namespace fovea {

struct AttentionPoolConfig {
  int64_t dim = 0, heads = 1, mlp_hidden = 0;
  Activation activation = Activation::kGelu;
  double norm_epsilon = 1e-6;
  int64_t first_token = 0;  // tokens before it are not pooled
};

class AttentionPool {
 public:
  // Parameters scope/{latent, q, kv, proj, norm, mlp}.
  AttentionPool(const Scope& scope, const AttentionPoolConfig& config);

  // y = a + mlp(norm(a)), a = proj(softmax(q(latent) k(tokens)ᵀ / sqrt(D)) v(tokens)).
  void forward(ConstTensor tokens /* (B, N, C) */, Tensor y /* (B, C) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dtokens /* written */, Tape& tape, Context& ctx) const;

  double flops(int64_t batch, int64_t tokens) const;

 private:
  AttentionPoolConfig config_;
  Param* latent_;  // (1, 1, C)
  MultiHeadAttention attention_;
  LayerNorm norm_;
  Mlp mlp_;
};

}  // namespace fovea
