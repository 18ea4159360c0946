// Linformer: keys and values are projected along the sequence to a fixed number of slots, which every query meets
// (Wang et al. 2020, 2006.04768). Time and memory are linear in the number of tokens, which is bounded at construction.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "attention/sequence_projection.h"
#include "kernels/token_groups.h"
#include "ops/layer_norm.h"

namespace fovea {

struct LinformerConfig {
  int64_t slots = 256;       // k
  int64_t max_tokens = 0;    // key tokens at most: the rows of the projection along the sequence
  bool share_kv = false;     // the values are the projected keys
  bool one_kv_head = false;  // one head of keys and values, which all heads of queries meet
};

// Key padding counts as rows of zeros in K and V before the projection along the sequence, so what stands in a padded row
// plays no part; when all rows are padding the output is that of zeros. Shorter inputs use the first rows of E and F. With
// qk_norm the slots' keys are normalised, not the tokens'.
class LinformerAttention : public Attention {
 public:
  // Parameters scope/{q, k, v}, scope/{proj_k, proj_v} (max_tokens, slots), scope/{q_norm, k_norm}, scope/proj; with share_kv
  // no v and no proj_v. Self attention too has separate projections, since k and v are computed for the slots alone.
  LinformerAttention(const Scope& scope, const AttentionConfig& config, const LinformerConfig& linformer);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;

 private:
  struct Record;
  int64_t inner() const { return config_.heads * config_.head_dim; }
  int64_t kv_heads() const { return linformer_.one_kv_head ? 1 : config_.heads; }
  int64_t kv_inner() const { return kv_heads() * config_.head_dim; }
  void normalise(Record& record, Tape* tape, Context& ctx) const;
  GroupedAttentionArgs kernel_args(const Record& record) const;
  Tensor sum_heads(Tensor gradient, Context& ctx) const;

  AttentionConfig config_;
  LinformerConfig linformer_;
  Linear q_;
  SequenceProjection key_;
  std::optional<SequenceProjection> value_;
  std::optional<LayerNorm> q_norm_, k_norm_;
  std::optional<Linear> proj_;
};

}  // namespace fovea
