// Layer normalisation (Ba et al. 2016, 1607.06450) over the last dimension, population variance.
#pragma once

#include "ops/linear.h"

namespace fovea {

class LayerNorm {
 public:
  // Parameters scope/weight and scope/bias, both (channels); `gamma` says how a fresh weight begins.
  LayerNorm(const Scope& scope, int64_t channels, double epsilon, const Init& gamma = Init::ones());

  int64_t channels() const { return channels_; }
  double epsilon() const { return epsilon_; }
  const Param& gamma() const { return *gamma_; }
  const Param& beta() const { return *beta_; }

  void forward(ConstTensor x /* (rows, C) */, Tensor y /* (rows, C) */, Tape* tape, Context& ctx) const;
  // dx is written, or added to, as `mode` says; it may be dy.
  void backward(ConstTensor dy, Tensor dx, Accumulate mode, Tape& tape, Context& ctx) const;

  // The parts, for layers that fuse the normalisation into their product.
  void statistics(ConstTensor x, Tensor mean /* (rows) */, Tensor rstd /* (rows) */, Context& ctx) const;
  void apply(ConstTensor x, Tensor y, Context& ctx) const;
  void backward(ConstTensor x, ConstTensor mean, ConstTensor rstd, ConstTensor dy, Tensor dx, Accumulate mode,
                Context& ctx) const;

  // Rows inside a larger buffer (the heads of q and k); x is kept by the caller.
  void forward_rows(const void* x, const RowLayout& x_rows, void* y, const RowLayout& y_rows, Tensor mean, Tensor rstd,
                    Context& ctx) const;
  void backward_rows(const void* x, const RowLayout& x_rows, ConstTensor mean, ConstTensor rstd, const void* dy,
                     const RowLayout& dy_rows, void* dx, const RowLayout& dx_rows, Context& ctx) const;

 private:
  int64_t channels_;
  double epsilon_;
  Param* gamma_;
  Param* beta_;
};

}  // namespace fovea
