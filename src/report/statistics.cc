#include "report/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fovea::report {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kNormal95 = 1.959964;

}  // namespace

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? kNaN : sum / static_cast<double>(values.size());
}

double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return kNaN;
  const double m = mean(values);
  double sum = 0;
  for (const double v : values) sum += (v - m) * (v - m);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double t_quantile_95(int64_t degrees) {
  static constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                      2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086};
  if (degrees < 1) return std::numeric_limits<double>::infinity();
  if (degrees <= std::ssize(kTable)) return kTable[degrees - 1];
  // Cornish and Fisher's expansion; its error is below 1e-3 here.
  const double z = kNormal95, n = static_cast<double>(degrees);
  return z + (z * z * z + z) / (4 * n) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * n * n);
}

double Contest::pooled_deviation(int64_t& degrees) const {
  degrees = 0;
  double squares = 0;
  for (const std::vector<double>& s : shares) {
    if (s.size() < 2) continue;
    const double d = standard_deviation(s);
    squares += d * d * static_cast<double>(s.size() - 1);
    degrees += std::ssize(s) - 1;
  }
  return degrees > 0 ? std::sqrt(squares / static_cast<double>(degrees)) : kNaN;
}

double Contest::half_width(size_t contender) const {
  const double p = mean(shares[contender]), n = static_cast<double>(shares[contender].size());
  const double counting = kNormal95 * std::sqrt(p * (1 - p) / static_cast<double>(std::max<int64_t>(1, images)) / n);
  int64_t degrees = 0;
  const double pooled = pooled_deviation(degrees);
  return degrees > 0 ? std::max(counting, t_quantile_95(degrees) * pooled / std::sqrt(n)) : counting;
}

double Contest::difference_half_width(size_t a, size_t b) const {
  const double x = half_width(a), y = half_width(b);
  return std::sqrt(x * x + y * y);
}

bool Contest::distinguishable(size_t a, size_t b) const {
  return std::abs(mean(shares[a]) - mean(shares[b])) > difference_half_width(a, b);
}

}  // namespace fovea::report
