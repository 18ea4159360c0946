// Random feature vectors whose directions are orthogonal in blocks of D (Choromanski et al. 2020, 2009.14794, section 2.4): the
// estimate of the softmax kernel has a smaller variance than with independent vectors.
#pragma once

#include "core/rng.h"
#include "core/tensor.h"

namespace fovea {

// Rows of `directions` (D, D): the columns of a Gaussian matrix (D, D), row-major, made orthonormal one after the other.
void orthonormal_directions(int64_t dim, const double* gaussian, double* directions);

enum class FeatureNorms : uint8_t { kGaussian /* as those of N(0, I) vectors */, kConstant /* sqrt(D) */ };

// Fills w (M, D) with fresh feature vectors. The same numbers in every element type.
void draw_orthogonal_features(const Rng& rng, FeatureNorms norms, const Tensor& w);

}  // namespace fovea
