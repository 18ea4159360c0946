// The projections of an attention: from tokens to q, k and v by heads, and back. For mechanisms that are no grouped softmax.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "ops/layer_norm.h"

namespace fovea {

// q, k and v of a forward, as the backward needs them: in one fused buffer (B, N, 3, H, D) or in three (B, N or Nk, H, D).
struct ProjectedHeads {
  int64_t batch, queries, keys, heads, head_dim;
  Tensor q, k, v;                    // first element of each
  int64_t q_token_stride, kv_token_stride;
  Tensor normed_q, normed_k;         // with qk_norm: (B, N or Nk, H, D)
  Tensor q_mean, q_rstd, k_mean, k_rstd;

  ConstHeadsView q_view() const;     // what the mechanism gets: normed where there is a norm
  ConstHeadsView k_view() const;
  HeadsView v_view() const;
};

// Where the mechanism's backward writes, in scratch memory.
struct ProjectedGradients {
  Tensor dqkv;                       // fused, or empty
  Tensor dq, dk, dv;                 // of the projections' outputs
  Tensor dnormed_q, dnormed_k;       // with qk_norm
  HeadsView q_view, k_view, v_view;
};

class HeadProjections {
 public:
  // Parameters scope/{qkv | q, k, v}, scope/{q_norm, k_norm}. config has passed with_defaults.
  HeadProjections(const Scope& scope, const AttentionConfig& config);

  ProjectedHeads forward(const AttentionInputs& in, Tape* tape, Context& ctx) const;
  ProjectedGradients gradients(const ProjectedHeads& heads, Arena& arena, DType dtype) const;
  // From the filled gradients to the parameters' and the inputs'.
  void backward(const AttentionInputs& in, const ProjectedHeads& heads, const ProjectedGradients& d, const AttentionGradients& to,
                Context& ctx) const;

  double flops(double tokens) const;  // with as many keys as queries

 private:
  int64_t inner() const { return config_.heads * config_.head_dim; }

  AttentionConfig config_;
  std::optional<Linear> qkv_, q_, k_, v_;  // either the first or the other three
  std::optional<LayerNorm> q_norm_, k_norm_;
};

}  // namespace fovea
