#include "attention/orthogonal_features.h"

#include <cmath>
#include <vector>

#include "core/convert.h"

namespace fovea {

void orthonormal_directions(int64_t dim, const double* gaussian, double* directions) {
  for (int64_t r = 0; r < dim; ++r) {
    double* row = directions + r * dim;
    for (int64_t i = 0; i < dim; ++i) row[i] = gaussian[i * dim + r];
    // Twice is enough (Kahan; Parlett 1998, section 6.9): the second round removes what the first one's rounding left.
    for (int round = 0; round < 2; ++round) {
      for (int64_t s = 0; s < r; ++s) {
        const double* other = directions + s * dim;
        double dot = 0;
        for (int64_t i = 0; i < dim; ++i) dot += row[i] * other[i];
        for (int64_t i = 0; i < dim; ++i) row[i] -= dot * other[i];
      }
    }
    double square = 0;
    for (int64_t i = 0; i < dim; ++i) square += row[i] * row[i];
    for (int64_t i = 0; i < dim; ++i) row[i] /= std::sqrt(square);
  }
}

void draw_orthogonal_features(const Rng& rng, FeatureNorms norms, const Tensor& w) {
  const int64_t features = w.dim(0), dim = w.dim(1);
  const auto square = static_cast<size_t>(dim * dim);
  std::vector<double> gaussian(square), directions(square);
  const Rng direction_rng = rng.fork(1), norm_rng = rng.fork(2);
  for (int64_t f = 0; f < features; ++f) {
    const int64_t row = f % dim;
    if (row == 0) {
      for (size_t i = 0; i < square; ++i) gaussian[i] = direction_rng.normal(static_cast<uint64_t>(f * dim) + i);
      orthonormal_directions(dim, gaussian.data(), directions.data());
    }
    double norm = static_cast<double>(dim);
    if (norms == FeatureNorms::kGaussian) {
      norm = 0;
      for (int64_t i = 0; i < dim; ++i) {
        const double x = norm_rng.normal(static_cast<uint64_t>(f * dim + i));
        norm += x * x;
      }
    }
    for (int64_t i = 0; i < dim; ++i)
      store_scalar(w, f * dim + i, static_cast<double>(static_cast<float>(directions[static_cast<size_t>(row * dim + i)] * std::sqrt(norm))));
  }
}

}  // namespace fovea
