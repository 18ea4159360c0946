// A residual branch, y = x + keep/(1-p) · gamma · dropout(f(x)): LayerScale (Touvron et al. 2021, 2103.17239), stochastic
// depth per sample (Huang et al. 2016, 1603.09382) and dropout around any f, fused into f's last product when all are off.
#pragma once

#include <optional>

#include "ops/linear.h"

namespace fovea {

struct ResidualConfig {
  int64_t channels = 0;
  double layer_scale = 0;  // initial gamma; 0: no LayerScale
  double dropout = 0;
  double drop_path = 0;
  uint64_t tag = 0;        // tells the branches' random numbers apart
};

class Residual {
 public:
  // Parameter scope/gamma (channels) when layer_scale is not zero.
  Residual(const Scope& scope, const ResidualConfig& config);

  // f(residual, out) writes its branch to `out` and adds `residual` when that is not empty.
  template <class F>
  void forward(ConstTensor x /* (B, N, C) */, Tensor y, Tape* tape, Context& ctx, F&& f) const {
    if (plain(ctx)) return f(x, y);
    ArenaScope scope(ctx.scratch());
    const Tensor branch = ctx.activation(x.shape, gamma_ ? tape : nullptr);
    f(ConstTensor(), branch);
    join(x, branch, y, tape, ctx);
  }

  // f_backward(dy, dx) adds the branch's share to dx, which holds dy, or is dy itself (a residual branch in place).
  template <class F>
  void backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx, F&& f_backward) const {
    if (plain(ctx)) return f_backward(dy, dx);
    ArenaScope scope(ctx.scratch());
    const Tensor branch = ctx.scratch().take(dy.shape, dy.dtype);
    split(dy, branch, tape, ctx);
    f_backward(ConstTensor(branch), dx);
  }

 private:
  bool plain(const Context& ctx) const { return !gamma_ && !(ctx.training() && (config_.dropout > 0 || config_.drop_path > 0)); }
  void join(ConstTensor x, Tensor branch, Tensor y, Tape* tape, Context& ctx) const;
  void split(ConstTensor dy, Tensor dbranch, Tape& tape, Context& ctx) const;
  Tensor path_scale(int64_t batch, Context& ctx) const;  // (B) 0 or 1 / (1 - drop_path)

  ResidualConfig config_;
  Param* gamma_ = nullptr;
};

}  // namespace fovea
