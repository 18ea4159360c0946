// The shared body of all softmax mechanisms: projections, heads, the grouped kernel. A mechanism adds its geometry (token
// groups) and, where it has one, its score bias.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "kernels/token_groups.h"
#include "ops/layer_norm.h"

namespace fovea {

class MultiHeadAttention : public Attention {
 public:
  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  double flops(const TokenGrid& grid) const override;

 protected:
  // Parameters scope/{qkv | q, k, v}, scope/{q_norm, k_norm}, scope/proj; without project_out no proj.
  MultiHeadAttention(const Scope& scope, const AttentionConfig& config);

  // Who meets whom; the reference stays valid as long as the context.
  virtual const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const = 0;
  // Pairs of a query and a key that meet, per head and batch element, padding not counted.
  virtual double pairs(const TokenGrid& grid) const = 0;
  // The bias by slot, (H, groups.max_queries, groups.max_keys); empty without one. It lives as long as `arena`'s content.
  virtual Tensor score_bias(const AttentionInputs& in, const TokenGroups& groups, Arena& arena, Context& ctx) const;
  virtual void score_bias_backward(const AttentionInputs& in, const TokenGroups& groups, ConstTensor dbias, Context& ctx) const;

  // What slots outside the map read: the projection of a token of zeros (the qkv bias, with its gradient), or zeros.
  virtual bool pads_are_projected() const { return true; }

  // A term of the output that the values alone give (LePE): sum (B, N, H D) = out + term(v), where sum may be out itself. The
  // backward adds to dv and to the parameters' gradients.
  virtual bool has_value_term() const { return false; }
  virtual void add_value_term(const AttentionInputs& in, const ConstHeadsView& v, ConstTensor out, Tensor sum, Context& ctx) const;
  virtual void value_term_backward(const AttentionInputs& in, const ConstHeadsView& v, ConstTensor dsum, const HeadsView& dv,
                                   Context& ctx) const;
  virtual double value_term_flops(const TokenGrid&) const { return 0; }

  const AttentionConfig& config() const { return config_; }
  int64_t inner() const { return config_.heads * config_.head_dim; }

 private:
  struct Record;
  void project(const AttentionInputs& in, Record& record, Tape* tape, Context& ctx) const;
  GroupedAttentionArgs kernel_args(const Record& record, Context& ctx) const;
  const Param* pad_bias() const { return qkv_ && pads_are_projected() ? qkv_->bias() : nullptr; }

  AttentionConfig config_;
  std::optional<Linear> qkv_, q_, k_, v_;  // either the first or the other three
  std::optional<LayerNorm> q_norm_, k_norm_;
  std::optional<Linear> proj_;             // with project_out; last, so that parameters are in order of use
};

}  // namespace fovea
