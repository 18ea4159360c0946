// Resampling of tables that live on a grid (position embeddings) to another grid size, as a separable linear map.
#pragma once

#include <string>
#include <vector>

#include "core/context.h"

namespace fovea {

// Cubic convolution with parameter a. Borders are renormalised (antialias: the kernel widens when shrinking, as Pillow's and PyTorch's
// antialias=True do) or clamped (antialias off).
struct CubicRule {
  double a = -0.5;
  bool antialias = true;
  bool corners = false;  // the outermost samples of both grids coincide; else half-pixel centres. Without antialias.
  double offset = 0;     // added to the new size where the step between samples is computed. Without antialias, with half-pixel centres.
};

// The rules by which code bases bring position tables to another size, by the name that a configuration has for them:
//   antialiased      antialiased, a = -0.5 (timm; DINOv2 with registers)
//   bicubic          plain, a = -0.75 (Hugging Face, mmpretrain)
//   bicubic_corners  plain, a = -0.75, corner to corner (torchvision)
//   bicubic_offset   plain, a = -0.75, the new size taken for 0.1 more than it is (DINOv2's own code)
// Throws Error listing them for another name.
CubicRule cubic_rule_named(const std::string& name);

// Weights (to, from), row-major, of one axis.
std::vector<double> cubic_weights(int64_t from, int64_t to, const CubicRule& rule);

// y (to_h, to_w, C) from x (from_h, from_w, C) and its transpose, dx += ...
struct GridResampling {
  int64_t from_h = 0, from_w = 0, to_h = 0, to_w = 0;
  CubicRule rule = {};
};
void resample_grid(const GridResampling& r, ConstTensor x, Tensor y, Context& ctx);
void resample_grid_backward(const GridResampling& r, ConstTensor dy, Tensor dx, Context& ctx);

}  // namespace fovea
