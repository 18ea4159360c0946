// Resampling of tables that live on a grid (position embeddings) to another grid size, as a separable linear map.
#pragma once

#include "core/context.h"

namespace fovea {

// Weights (to, from), row-major, of one axis: cubic convolution with parameter a, half-pixel centres, borders renormalised
// (antialias: the kernel widens when shrinking, as Pillow's and PyTorch's antialias=True do) or clamped (antialias off).
std::vector<double> cubic_weights(int64_t from, int64_t to, double a, bool antialias);

// y (to_h, to_w, C) from x (from_h, from_w, C) and its transpose, dx += ...
struct GridResampling {
  int64_t from_h = 0, from_w = 0, to_h = 0, to_w = 0;
  double a = -0.5;
  bool antialias = true;
};
void resample_grid(const GridResampling& r, ConstTensor x, Tensor y, Context& ctx);
void resample_grid_backward(const GridResampling& r, ConstTensor dy, Tensor dx, Context& ctx);

}  // namespace fovea
