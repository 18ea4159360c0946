#include "report/numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fovea::report {
namespace {

constexpr const char* kDash = "–";

}  // namespace

std::string grouped(int64_t value) {
  std::string digits = fmt::format("{}", value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string percent(double share) { return std::isfinite(share) ? fmt::format("{:.1f}\u00a0%", 100 * share) : kDash; }

std::string significant(double value, int digits) {
  if (!std::isfinite(value)) return kDash;
  // %g would turn to an exponent as soon as the digits before the point are more than asked for.
  if (std::abs(value) < 1e7 && std::abs(value) >= std::pow(10.0, digits)) return fmt::format("{:.0f}", value);
  return short_exponent(fmt::format("{:.{}g}", value, digits));
}

std::string fixed(double value, int decimals) {
  const double smallest = std::pow(10.0, 1 - decimals);
  if (!std::isfinite(value) || std::abs(value) >= 1e7 || (value != 0 && std::abs(value) < smallest))
    return significant(value, 2);
  return fmt::format("{:.{}f}", value, decimals);
}

std::string short_exponent(std::string number) {
  const size_t e = number.find('e');
  if (e == std::string::npos || e + 1 == number.size()) return number;
  const bool has_sign = number[e + 1] == '+' || number[e + 1] == '-';
  const size_t digits = e + 1 + (has_sign ? 1 : 0);
  while (digits + 1 < number.size() && number[digits] == '0') number.erase(digits, 1);
  if (number[e + 1] == '+') number.erase(e + 1, 1);
  return number;
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e15) return kDash;
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", grouped(whole / 3600), whole % 3600 / 60);
}

std::string counted(int64_t count, const std::string& singular, const std::string& plural) {
  return grouped(count) + " " + (count == 1 ? singular : plural);
}

Interval wilson_interval(double share, int64_t trials) {
  if (trials <= 0 || !std::isfinite(share)) return {0, 1};
  constexpr double kZ = 1.959963984540054;  // 97.5 % quantile of the normal distribution
  const double n = static_cast<double>(trials), z2 = kZ * kZ;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kZ / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace fovea::report
