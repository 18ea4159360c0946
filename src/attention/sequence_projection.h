// Linformer's projection along the sequence (Wang et al. 2020, 2006.04768): of all tokens' keys (or values) it makes a fixed
// number of slots, y = Eᵀ (x Wᵀ + 1 bᵀ), one E for all heads. It is computed as (Eᵀ x) Wᵀ + (Eᵀ 1) bᵀ: the channels are
// projected for the slots alone, so no product over the tokens but Eᵀ x is left.
#pragma once

#include "ops/linear.h"

namespace fovea {

class SequenceProjection {
 public:
  // What the backward needs.
  struct Record {
    ConstTensor x;                     // (B, M, in)
    const uint8_t* padding = nullptr;  // (B, M) 1 = the token counts as a row of zeros, or null
    Tensor reduced;                    // (B, slots, in) Eᵀ x
    Tensor sums;                       // (B, slots) Eᵀ 1, with a bias
  };

  // Parameters channels/weight (out, in), channels/bias (out), and `rows` in `scope` (max_tokens, slots), which is E.
  SequenceProjection(const Scope& scope, const std::string& channels, const std::string& rows, int64_t in, int64_t out, Bias bias,
                     int64_t max_tokens, int64_t slots);

  int64_t slots() const { return rows_->shape[1]; }
  int64_t max_tokens() const { return rows_->shape[0]; }
  int64_t in() const { return channels_.in(); }
  int64_t out() const { return channels_.out(); }

  // y (B, slots, out) from x (B, M, in), M <= max_tokens: the first M rows of E. The record's tensors live on the tape, or in
  // the caller's scratch.
  Record forward(ConstTensor x, const uint8_t* padding, Tensor y, Tape* tape, Context& ctx) const;
  // dx (B, M, in) is written, or added to.
  void backward(const Record& record, ConstTensor dy, Tensor dx, Accumulate dx_mode, Context& ctx) const;

  double flops(int64_t batch, int64_t tokens) const;

 private:
  const int32_t* used_rows(const Record& record, Context& ctx) const;

  Linear channels_;
  Param* bias_ = nullptr;
  Param* rows_;
};

}  // namespace fovea
