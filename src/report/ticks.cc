// Where an axis has its ticks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/svg_chart.h"

namespace fovea::report {
namespace {

// `value` with the decimals that tell ticks `step` apart.
std::string tick_label(double value, double step) {
  const double magnitude = std::max(std::abs(value), step);
  if (value != 0 && (magnitude >= 1e6 || step < 0.99e-4)) {
    const int digits = std::clamp(static_cast<int>(std::floor(std::log10(magnitude)) - std::floor(std::log10(step))), 0, 15);
    std::string text = fmt::format("{:.{}e}", value, digits);  // 5e-04 -> 5e-4
    const size_t exponent = text.find('e') + 2;
    while (text[exponent] == '0' && exponent + 1 < text.size()) text.erase(exponent, 1);
    if (text[exponent - 1] == '+') text.erase(exponent - 1, 1);
    return text;
  }
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  return fmt::format("{:.{}f}", value == 0 ? 0.0 : value, decimals);  // no "-0"
}

double nice_step(double range, int most) {
  const double rough = range / std::max(1, most - 1);
  const double decade = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * decade >= rough * (1 - 1e-9)) return factor * decade;
  return 10 * decade;
}

Ticks linear_ticks(double low, double high, const Axis& axis, int most, bool round_ends) {
  if (axis.from_zero) {
    low = std::min(low, 0.0);
    high = std::max(high, 0.0);
  }
  const double largest = std::max(std::abs(low), std::abs(high));
  if (high - low <= 1e-9 * largest || high == low) {
    const double margin = axis.ticks == AxisTicks::kWhole ? 0.5 : largest == 0 ? 1 : 0.1 * largest;
    low -= margin;
    high += margin;
  }
  double step = nice_step(high - low, most);
  if (axis.ticks == AxisTicks::kWhole) step = std::max(1.0, step);
  if (round_ends) {
    low = step * std::floor(low / step + 1e-9);
    high = step * std::ceil(high / step - 1e-9);
  }
  Ticks ticks{low, high, {}, {}};
  const double first = std::ceil(low / step - 1e-9);
  const int count = static_cast<int>(std::floor(high / step + 1e-9) - first) + 1;
  for (int i = 0; i < std::min(count, 2 * most + 2); ++i) {
    ticks.at.push_back((first + i) * step);
    ticks.labels.push_back(tick_label(ticks.at.back(), step));
  }
  return ticks;
}

Ticks log_ticks(double low, double high, int most, bool round_ends) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  std::vector<double> candidates;
  const bool within = last - first < std::max(2, most / 3);
  const int stride = std::max(1, (last - first + most - 1) / most);
  for (int decade = first; decade <= last + stride - 1; decade += stride)
    for (const double factor : {1.0, 2.0, 5.0})
      if (within || factor == 1) candidates.push_back(factor * std::pow(10.0, decade));
  if (candidates.size() == 1) candidates.push_back(10 * candidates.front());
  // The ends become the nearest candidates outside, so that at least two ticks remain.
  size_t begin = 0, end = candidates.size() - 1;
  while (begin + 1 < end && candidates[begin + 1] <= low * (1 + 1e-9)) ++begin;
  while (end > begin + 1 && candidates[end - 1] >= high * (1 - 1e-9)) --end;
  Ticks ticks{round_ends ? candidates[begin] : low, round_ends ? candidates[end] : high, {}, {}};
  if (ticks.low == ticks.high) ticks.low = candidates[begin], ticks.high = candidates[end];
  for (size_t i = begin; i <= end; ++i) {
    if (candidates[i] < ticks.low * (1 - 1e-9) || candidates[i] > ticks.high * (1 + 1e-9)) continue;
    const double decade = std::pow(10.0, std::floor(std::log10(candidates[i]) + 1e-9));
    ticks.at.push_back(candidates[i]);
    ticks.labels.push_back(tick_label(candidates[i], decade));
  }
  return ticks;
}

}  // namespace

Ticks nice_ticks(double low, double high, const Axis& axis, int most, bool round_ends) {
  return axis.scale == AxisScale::kLog ? log_ticks(low, high, most, round_ends)
                                       : linear_ticks(low, high, axis, most, round_ends);
}

}  // namespace fovea::report
