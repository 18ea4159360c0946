// The two-layer perceptron of a transformer block, y = (act(norm(x) W1ᵀ + b1)) W2ᵀ + b2 (+ residual). A gated one (Shazeer 2020,
// 2002.05202; with SiLU it is SwiGLU) has two halves of hidden values in W1, act(first) · second.
#pragma once

#include "ops/layer_norm.h"

namespace fovea {

class Mlp {
 public:
  // Parameters scope/fc1 (hidden, or 2 hidden where gated, outputs), scope/fc2.
  Mlp(const Scope& scope, int64_t dim, int64_t hidden, Activation activation, bool gated = false);

  // `norm` (or nullptr) is applied to x first, inside the first product. y may be residual or x.
  void forward(ConstTensor x /* (rows, C) */, const LayerNorm* norm, ConstTensor residual, Tensor y, Tape* tape, Context& ctx) const;
  // Adds to dx; dx may be dy (a residual branch in place). `norm` as in the forward.
  void backward(ConstTensor dy, const LayerNorm* norm, Tensor dx, Tape& tape, Context& ctx) const;

  double flops(int64_t rows) const;

 private:
  Linear fc1_, fc2_;
  Activation activation_;
  bool gated_;
};

}  // namespace fovea
