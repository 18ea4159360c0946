// Cross-shaped windows of CSWin (Dong et al. 2021, 2107.00652): half of the heads attend within vertical stripes, half within
// horizontal ones, and a depthwise convolution of the values inside each stripe gives the places (LePE).
#pragma once

#include <deque>

#include "attention/multi_head.h"
#include "ops/depthwise_conv.h"

namespace fovea {

enum class Stripe : uint8_t { kVertical /* H x stripe */, kHorizontal /* stripe x W */, kWhole /* the map */ };

// The stripes of a map. Where the stripe's width does not divide the side, the map is padded on both sides alike (a pixel more
// at the end), after the projection: padded places are keys with logit 0 and value 0.
MapBlocks stripe_blocks(int64_t height, int64_t width, Stripe direction, int64_t stripe);

// Heads that share their stripes.
struct StripeBranch {
  Stripe direction = Stripe::kVertical;
  int64_t heads = 1;
};

// The stripes of all branches as token groups, heads in the branches' order. Prefix tokens meet every token both ways.
TokenGroups stripe_groups(int64_t prefix, int64_t height, int64_t width, const std::vector<StripeBranch>& branches, int64_t stripe);

struct CrossShapedConfig {
  int64_t stripe = 7;
  bool whole_map = false;  // one branch: all heads over the whole map, as in CSWin's last stage
};

class StripesGeometry : public AttentionGeometry {
 public:
  StripesGeometry(std::vector<StripeBranch> branches, int64_t stripe, bool cross)
      : branches_(std::move(branches)), stripe_(stripe), cross_(cross) {}

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;

 private:
  std::vector<StripeBranch> branches_;
  int64_t stripe_;
  bool cross_;
};

class CrossShapedAttention : public MultiHeadAttention {
 public:
  // Besides the projections: scope/attns/I/get_v/{weight, bias} for branch I, over its heads' channels. With an odd number of
  // heads the odd one is vertical in even blocks and horizontal in odd ones.
  CrossShapedAttention(const Scope& scope, const AttentionConfig& config, const CrossShapedConfig& shape);

 protected:
  bool pads_are_projected() const override { return false; }
  bool has_value_term() const override { return true; }
  void add_value_term(const AttentionInputs& in, const ConstHeadsView& v, DType v_dtype, ConstTensor out, Tensor sum, Context& ctx) const override;
  void value_term_backward(const AttentionInputs& in, const ConstHeadsView& v, ConstTensor dsum, const HeadsView& dv,
                           Context& ctx) const override;
  double value_term_flops(const TokenGrid& grid) const override;

 private:
  // Calls f(branch index, its map, offset of its channels in a row of all heads).
  template <class F>
  void for_each_branch(const AttentionInputs& in, F&& f) const;

  CrossShapedConfig shape_;
  std::vector<StripeBranch> branches_;
  std::deque<DepthwiseConv3x3> lepe_;  // one a branch
};

}  // namespace fovea
