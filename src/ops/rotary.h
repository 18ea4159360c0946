// Rotary positions (Su et al. 2021, 2104.09864): pairs of channels of q and k are rotated by angles that grow with the
// position, so that their products depend on the difference of positions alone.
#pragma once

#include "core/context.h"
#include "kernels/kernel_table.h"

namespace fovea {

// Channel i < D/2 is paired with channel i + D/2; pair i of the row at position p turns by p · base^(-2i / D).
struct Rotary {
  double base = 10000;

  // Rows of heads x (B, N, H, D), contiguous, D even; the row of token n stands at position n + first. y is not x.
  void forward(ConstTensor x, int64_t first, Tensor y, Context& ctx) const;
  void backward(ConstTensor dy, int64_t first, Tensor dx /* written, not dy */, Context& ctx) const;

 private:
  void turn(ConstTensor x, int64_t first, bool back, Tensor y, Context& ctx) const;
};

}  // namespace fovea
