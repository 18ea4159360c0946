// The learning rate over a run: linear warm-up, then a cosine down to a small rest (Loshchilov and Hutter 2017, 1608.03983).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace fovea {

struct Schedule {
  double peak = 1e-3;
  double final_share = 0.01;   // of the peak, at the end
  int64_t warmup_steps = 0, total_steps = 1;

  // Rate of update `step`, 0 <= step < total_steps.
  double lr(int64_t step) const {
    if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    const double span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
    const double t = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + std::cos(std::numbers::pi * t)));
  }
};

}  // namespace fovea
