// Where an axis has its ticks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/numbers.h"
#include "report/svg_chart.h"

namespace fovea::report {
namespace {

// `value` with the decimals that tell ticks `step` apart.
std::string tick_label(double value, double step) {
  const double magnitude = std::max(std::abs(value), step);
  if (value == 0) return "0";
  if (magnitude >= 1e6 || step < 0.99e-4) {
    const int digits =
        std::clamp(static_cast<int>(std::floor(std::log10(magnitude)) - std::floor(std::log10(step))), 0, 15);
    std::string text = fmt::format("{:.{}e}", value, digits);
    while (digits > 0 && text[text.find('e') - 1] == '0') text.erase(text.find('e') - 1, 1);  // 1.50e3 -> 1.5e3
    if (const size_t e = text.find('e'); text[e - 1] == '.') text.erase(e - 1, 1);
    return short_exponent(std::move(text));
  }
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  if (decimals == 0) return grouped(std::llround(value));
  return fmt::format("{:.{}f}", value, decimals);
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
    const double margin = axis.ticks == AxisTicks::kWhole ? std::max(0.5, 1e-8 * largest)
                          : largest == 0                  ? 1
                                                          : 0.1 * largest;
    low -= margin;
    high += margin;
  }
  double step = nice_step(high - low, most);
  if (axis.ticks == AxisTicks::kWhole) step = std::max(1.0, step);
  if (round_ends) {
    low = step * std::floor(low / step + 1e-9);
    high = step * std::ceil(high / step - 1e-9);
    if (low >= high) high = low + step;
  }
  Ticks ticks{low, high, {}, {}};
  const double first = std::ceil(low / step - 1e-9);
  const int count = static_cast<int>(std::floor(high / step + 1e-9) - first) + 1;
  for (int i = 0; i < std::min(count, 2 * most + 2); ++i) {
    ticks.at.push_back((first + i) * step + 0.0);  // + 0.0 makes -0 a plain zero
    ticks.labels.push_back(tick_label(ticks.at.back(), step));
  }
  return ticks;
}

Ticks log_ticks(double low, double high, int most, bool round_ends) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  std::vector<double> candidates;
  for (int decade = first; decade <= last; ++decade)
    for (const double factor : {1.0, 2.0, 5.0}) candidates.push_back(factor * std::pow(10.0, decade));
  // The ends become the nearest candidates outside.
  size_t begin = 0, end = candidates.size() - 1;
  while (begin + 1 < end && candidates[begin + 1] <= low * (1 + 1e-9)) ++begin;
  while (end > begin + 1 && candidates[end - 1] >= high * (1 - 1e-9)) --end;
  Ticks ticks{round_ends ? candidates[begin] : low, round_ends ? candidates[end] : high, {}, {}};
  if (ticks.low == ticks.high) ticks.low = candidates[begin], ticks.high = candidates[end];
  // 1-2-5 within two decades, else every decade or every few.
  const bool within = last - first <= 2;
  const int stride = within ? 1 : std::max(1, (last - first + most - 1) / most);
  for (size_t i = begin; i <= end; ++i) {
    if (!within && i % (3 * static_cast<size_t>(stride)) != 0) continue;
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
