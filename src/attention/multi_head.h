// The shared body of all softmax mechanisms: projections, heads, the grouped kernel, over a geometry.
#pragma once

#include <optional>

#include "attention/geometry.h"
#include "ops/layer_norm.h"

namespace fovea {

class MultiHeadAttention : public Attention {
 public:
  // Parameters scope/{qkv | q, k, v | q, kv}, scope/{q_norm, k_norm}, scope/proj (with project_out), and the geometry's; with
  // cosine scope/{logit_scale, q_bias, v_bias} and a qkv without bias.
  MultiHeadAttention(const Scope& scope, const AttentionConfig& config, std::unique_ptr<const AttentionGeometry> geometry);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  bool takes_norm() const override { return qkv_ && !geometry_->has_position(); }
  const std::vector<TokenBand>& bands(const TokenGrid& grid, int64_t least, Context& ctx) const override;
  ConstTensor prepare(const TokenGrid& grid, Context& ctx) const override;
  std::optional<AttentionSteps> steps(const TokenGrid& grid, Context& ctx) const override;
  void project_rows(ConstTensor x, const LayerNorm& norm, Tensor projected, Context& ctx) const override;
  void meet(const AttentionInputs& in, Tensor projected, Tensor met, Context& ctx) const override;
  void finish_rows(ConstTensor met, ConstTensor residual, Tensor y, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;

 protected:
  // What slots outside the map read: the projection of a token of zeros (the qkv bias, with its gradient), or zeros.
  virtual bool pads_are_projected() const { return true; }

  // A term of the output that the values alone give (LePE): sum (B, N, H D) = out + term(v), where sum may be out itself. The
  // backward adds to dv and to the parameters' gradients.
  virtual bool has_value_term() const { return false; }
  virtual void add_value_term(const AttentionInputs& in, const ConstHeadsView& v, DType v_dtype, ConstTensor out, Tensor sum, Context& ctx) const;
  virtual void value_term_backward(const AttentionInputs& in, const ConstHeadsView& v, ConstTensor dsum, const HeadsView& dv,
                                   Context& ctx) const;
  virtual double value_term_flops(const TokenGrid&) const { return 0; }

  const AttentionConfig& config() const { return config_; }
  const AttentionGeometry& geometry() const { return *geometry_; }
  int64_t inner() const { return config_.heads * config_.head_dim; }

 private:
  struct Record;
  bool rounds(const AttentionInputs& in, const TokenGroups& groups, const Tape* tape, const Context& ctx) const;
  bool rounds_output(DType projected, const Context& ctx) const;
  Tensor meet(Record& record, Tape* tape, Context& ctx) const;
  void project(const AttentionInputs& in, Record& record, Tape* tape, Context& ctx) const;
  void project_cosine(const AttentionInputs& in, Record& record, Tape* tape, Context& ctx) const;
  void cosine_backward(const Record& record, Tensor dqkv, ConstTensor dtemperature, Context& ctx) const;
  void project_self(const AttentionInputs& in, ConstTensor bias, Tensor qkv, Context& ctx) const;
  void self_parameters_backward(const AttentionInputs& in, ConstTensor dqkv, Linear::Outputs without_bias, Context& ctx) const;
  Tensor placed(const AttentionInputs& in, Context& ctx) const;
  GroupedAttentionArgs kernel_args(const Record& record, Context& ctx) const;
  const Param* pad_bias() const { return qkv_ && pads_are_projected() ? qkv_->bias() : nullptr; }

  AttentionConfig config_;
  std::unique_ptr<const AttentionGeometry> geometry_;
  std::optional<Linear> qkv_, q_, k_, v_, kv_;  // the first; or the next three; or, with fused_kv, the second and the last
  std::optional<LayerNorm> q_norm_, k_norm_;
  Param *logit_scale_ = nullptr, *q_bias_ = nullptr, *v_bias_ = nullptr;  // of cosine; the biases (H D), where there are any
  std::optional<Linear> proj_;             // with project_out; last, so that parameters are in order of use
};

}  // namespace fovea
