// Longformer (Beltagy et al. 2020, 2004.05150): a sliding window with a dilation of its own for each head, and global tokens
// that see everybody through projections of their own and are seen by everybody. On maps the window is a square around the
// token (Vision Longformer, Zhang et al. 2021, 2103.15358) and the prefix tokens are the global ones.
#pragma once

#include "attention/longformer_groups.h"
#include "attention/multi_head.h"

namespace fovea {

class LongformerAttention : public Attention {
 public:
  // Parameters scope/{qkv, q_global, kv_global, proj}, and scope/{q,k}_norm, scope/{q,k}_global_norm with qk_norm. Global tokens' queries meet keys and values of q_global and kv_global; as
  // keys of others they are what qkv makes of them.
  LongformerAttention(const Scope& scope, const AttentionConfig& config, const LongformerConfig& longformer);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;

 private:
  struct Record;
  int64_t inner() const { return config_.heads * config_.head_dim; }
  Tensor values_of(const Tensor& kv) const;  // where the values of (B, N, 2, H D) begin
  GroupedAttentionArgs global_args(const Record& r) const;
  void attend_globally(Record& r, Tensor out, Tape* tape, Context& ctx) const;

  AttentionConfig config_;
  LongformerConfig longformer_;
  MultiHeadAttention window_;
  std::optional<Linear> q_global_, kv_global_, proj_;
  std::optional<LayerNorm> q_global_norm_, k_global_norm_;
};

}  // namespace fovea
