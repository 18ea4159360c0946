// Sparse sampling inside global attention: every query meets a sample of the keys, taken from the map at a stride or pooled
// from it (spatial reduction of PVT, Wang et al. 2021, 2102.12122; its linear form, Wang et al. 2022, 2106.13797; the global
// half of Twins, Chu et al. 2021, 2104.13840).
#pragma once

#include <optional>

#include "attention/global.h"
#include "ops/conv2d.h"

namespace fovea {

struct SampledConfig {
  enum class Kind : uint8_t {
    kStrided,  // every ratio-th token of either axis
    kPooled,   // LayerNorm(convolution of ratio x ratio patches at that stride); ratio 1x1: the tokens themselves
    kLinear,   // GELU(LayerNorm(1x1 convolution(mean over the bins of a fixed grid)))
  } kind = Kind::kPooled;
  int64_t ratio_h = 2, ratio_w = 2;
  int64_t offset_h = 0, offset_w = 0;  // kStrided: the first token; an axis that ends before it gives its last token
  int64_t grid_h = 7, grid_w = 7;      // kLinear
  double norm_epsilon = 1e-5;          // of the reduction's LayerNorm

  // Keys taken from a map.
  int64_t out_height(int64_t height) const;
  int64_t out_width(int64_t width) const;
};

// A patch of the convolution that would leave the map is dropped, as in the official code; a map smaller than one patch gives
// one, filled with zeros. Prefix tokens are queries and keys like the rest: they join the sampled keys as they are. Key
// padding: a strided key that is padding is none; kPooled and kLinear see zeros in padded cells, and a pooled key whose
// cells are all padding is none.
class SampledAttention : public Attention {
 public:
  // Parameters scope/{q, k, v}, scope/{q_norm, k_norm}, scope/proj; with a reduction scope/sr (a Conv2d), scope/norm.
  SampledAttention(const Scope& scope, const AttentionConfig& config, const SampledConfig& sampled);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;

 private:
  struct Record;
  bool reduces() const { return reduction_.has_value(); }
  int64_t keys(const TokenGrid& grid) const;
  const std::vector<int32_t>& key_rows(const TokenGrid& grid, Context& ctx) const;
  const uint8_t* padding_of_keys(const AttentionInputs& in, Tape* tape, Context& ctx) const;
  void reduce(const AttentionInputs& in, Record& record, Tensor z, Tape* tape, Context& ctx) const;
  void reduce_backward(const Record& record, ConstTensor dz, Tensor dx, Tape& tape, Context& ctx) const;

  AttentionConfig config_;
  SampledConfig sampled_;
  GlobalAttention attention_;  // from all tokens to the sampled ones
  std::optional<Conv2d> reduction_;
  std::optional<LayerNorm> norm_;
};

}  // namespace fovea
