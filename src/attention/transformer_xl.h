// Attention with Transformer-XL's relative positions (Dai et al. 2019, 1901.02860, section 3.3):
//   S_ij = ((q_i + u) · k_j + (q_i + v) · R_ij) / sqrt(D),  R = W_r s(distance), s sinusoids.
// Causal: one sequence, the memory of earlier segments before it; the distance is i - j. Otherwise a map: the sinusoids of
// y_i - y_j and of x_i - x_j, half of the width each, so that R is the sum of a table of rows and one of columns; prefix
// tokens meet all without the second term.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "kernels/token_groups.h"
#include "ops/layer_norm.h"

namespace fovea {

struct TransformerXlConfig {
  int64_t clamp_len = 0;     // > 0: distances beyond it count as it
  bool same_length = false;  // a causal query sees its last mem_len keys, itself included, not all before it
  int64_t mem_len = 0;       // of same_length
  int64_t learnable = 0;     // > 0: rows r_emb and biases r_bias of so many distances are learned (the last is every further
                             // one's) instead of W_r s and v; causal sequences only
  Param* r_w_bias = nullptr;  // (H, D) u and v where the caller shares them between layers; null: the layer's own
  Param* r_r_bias = nullptr;

  // For tests. Rows to use for s (distances from 0 on, C) and a place for their gradient, both or none; and the official
  // shift without a mask, in which keys behind a query get terms of the next query (reference tables only).
  ConstTensor positions;
  Tensor dpositions;
  bool wrapped_shift = false;
};

class TransformerXlAttention : public Attention {
 public:
  // Parameters scope/qkv, without bias; scope/{q_norm, k_norm}; scope/r_w_bias; scope/r_r_bias and r_net, or r_emb and
  // r_bias; scope/proj.
  TransformerXlAttention(const Scope& scope, const AttentionConfig& config, const TransformerXlConfig& xl);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;

 private:
  struct Record;
  int64_t inner() const { return config_.heads * config_.head_dim; }
  bool is_sequence(const AttentionInputs& in) const { return in.causal || xl_.wrapped_shift; }
  int64_t distances(int64_t memory, int64_t tokens) const;  // of a sequence: 0, 1, ... below this
  const TokenGroups& groups(const AttentionInputs& in, int64_t memory, Context& ctx) const;
  void project(const AttentionInputs& in, Record& r, Tape* tape, Context& ctx) const;
  void make_rows(Record& r, Tape* tape, Context& ctx) const;
  void make_rows_backward(const Record& r, Tensor dx_rows, Tensor dy_rows, Tensor dx_bias, Context& ctx) const;
  void project_backward(const Record& r, ConstTensor dqkv, ConstTensor dmemory_kv, const AttentionGradients& gradients,
                        Context& ctx) const;
  RelativeTerm relative_term(const Record& r) const;
  GroupedAttentionArgs kernel_args(const Record& r, const RelativeTerm& term) const;

  AttentionConfig config_;
  TransformerXlConfig xl_;
  std::optional<Linear> qkv_;
  std::optional<LayerNorm> q_norm_, k_norm_;
  Param* r_w_bias_;
  Param* r_r_bias_ = nullptr;
  std::optional<Linear> r_net_;
  Param* r_emb_ = nullptr;   // (learnable, H, D), the greatest distance first
  Param* r_bias_ = nullptr;  // (learnable, H)
  std::optional<Linear> proj_;
};

}  // namespace fovea
