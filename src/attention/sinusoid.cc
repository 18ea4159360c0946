#include "attention/sinusoid.h"

#include <cmath>

#include "core/convert.h"

namespace fovea {

void write_sinusoids(const std::vector<double>& positions, const Tensor& to) {
  const int64_t width = to.last(), sines = (width + 1) / 2;
  check(to.rows() == static_cast<int64_t>(positions.size()), "{} positions for rows of shape {}", positions.size(), to.shape);
  for (int64_t p = 0; p < to.rows(); ++p) {
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = c < sines ? c : c - sines;
      const double angle = positions[static_cast<size_t>(p)] * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(width));
      store_scalar(to, p * width + c, c < sines ? std::sin(angle) : std::cos(angle));
    }
  }
}

}  // namespace fovea
