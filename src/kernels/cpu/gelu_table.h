// GELU by pieces of polynomials, for code that has a vector permutation of sixteen floats.
#pragma once

#include "kernels/kernel_table.h"

namespace fovea {

// gelu(x) = max(x, 0) - r(|x|), and r is a polynomial in each of sixteen pieces of its range. With a = min(|x|, bound), t = a / width and
// i = round(t), r = sum over n of coefficients[n][i] (t - i)^n for degree 5, at an absolute error below 8e-8. For degree 3, at an error below
// 2e-5, it is that sum of a^n, whose terms cancel no further than that.
struct GeluTable {
  static constexpr int kPieces = 16, kMaxDegree = 5;
  alignas(64) float coefficients[kMaxDegree + 1][kPieces];
  float bound, inverse_width;
  float to_integer;  // 1.5 · 2^23: added to a float, it leaves the nearest integer in the lower bits
};

// Of kGelu or kGeluTanh; made at the first call, kept for good. Degree 3 or 5.
const GeluTable& gelu_table(Activation activation, int degree);

}  // namespace fovea
