// The affine map of transformers, y = x Wᵀ + b.
#pragma once

#include "core/param_store.h"
#include "core/tape.h"
#include "kernels/kernel_table.h"

namespace fovea {

// Layers of rows that depend on nothing else: where each thread gets so many, it takes them alone (Context::share_out), and threads meet once
// instead of after each product.
inline constexpr int64_t kLeastRowsAlone = 96;

enum class Bias : uint8_t { kNo, kYes };
enum class Accumulate : uint8_t { kNo, kYes };

class LayerNorm;

// What a forward product does besides the product.
struct LinearFusion {
  const LayerNorm* norm = nullptr;  // normalises x first
  ConstTensor mean, rstd;           // (rows) of x, from LayerNorm::statistics; empty: the product computes them itself
  ConstTensor bias;                 // (out) instead of the layer's own, whose parameters the caller keeps; or empty
  Activation activation = Activation::kNone;
  Tensor pre_activation;            // (rows, out) keeps the value before the activation
  ConstTensor residual;             // (rows, out) added last; may be y itself
};

class Linear {
 public:
  // Parameters scope/weight (out, in), with decay, and scope/bias (out). A fresh weight's deviation is 0.02 at the width of
  // ViT-B (768), as published, and goes with 1 / sqrt(in) at others, so that narrow models start with as strong a signal.
  Linear(const Scope& scope, int64_t in, int64_t out, Bias bias);
  // The same with a weight of another beginning or without decay.
  Linear(const Scope& scope, int64_t in, int64_t out, Bias bias, const Init& weight, Decay decay);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  const Param& weight() const { return *weight_; }
  void set_outermost() { weight_->outermost = true; }
  void read_plain() { weight_->read_plain = true; }  // an inference reads weight().value: apply_part, or the caller's own products
  // Its forward products round their operands: x and y of apply() may be bfloat16.
  bool rounds(const Context& ctx) const { return type(ctx) != ProductType::kOwn; }
  bool multiplies_integers(const Context& ctx) const { return type(ctx) == ProductType::kInt8; }
  const Param* bias() const { return bias_; }  // nullptr without one

  void forward(ConstTensor x /* (rows, in) */, Tensor y /* (rows, out) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy /* (rows, out) */, Tensor dx /* (rows, in), empty: not wanted */, Accumulate dx_mode, Tape& tape,
                Context& ctx) const;

  // The parts, for layers that fuse: they keep x themselves.
  void apply(ConstTensor x, Tensor y, const LinearFusion& fusion, Context& ctx) const;
  void backward_input(ConstTensor dy, Tensor dx, Accumulate mode, Context& ctx) const;
  void backward_parameters(ConstTensor x, ConstTensor dy, Context& ctx) const { backward_parameters(x, dy, {}, ctx); }
  // Outputs [first, first + count) whose bias has no gradient by mathematics: sums of rounding errors would move it at random.
  struct Outputs {
    int64_t first = 0, count = 0;
  };
  void backward_parameters(ConstTensor x, ConstTensor dy, Outputs without_bias, Context& ctx) const;
  // Output columns [first, first + count) alone, in place among the others of y and dy (rows, out). `bias` (out) as in LinearFusion.
  void apply_part(ConstTensor x, int64_t first, int64_t count, ConstTensor bias, Tensor y, Context& ctx) const;
  void backward_parameters_part(ConstTensor x, int64_t first, int64_t count, ConstTensor dy, Context& ctx) const;

 private:
  ProductType type(const Context& ctx) const { return weight_->packed != nullptr ? weight_->packed_type : ctx.products(); }
  void add_gradients(ConstTensor x, int64_t first, int64_t count, ConstTensor dy, void* bias, Context& ctx) const;

  int64_t in_, out_;
  Param* weight_;
  Param* bias_ = nullptr;
};

}  // namespace fovea
