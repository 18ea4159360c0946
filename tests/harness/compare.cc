#include "harness/compare.h"

#include <cmath>
#include <functional>

#include "core/convert.h"

namespace fovea::harness {

namespace {

bool overlap(const ConstTensor& a, const ConstTensor& b) {
  const auto* x = static_cast<const char*>(a.data);
  const auto* y = static_cast<const char*>(b.data);
  const std::less<const char*> before;
  return before(x, y + b.bytes()) && before(y, x + a.bytes());
}

std::string unfit(const ConstTensor& actual, const ConstTensor& expected) {
  if (actual.elements() != expected.elements())
    return fmt::format("{} elements of shape {} are compared with {} of shape {}", actual.elements(), actual.shape,
                       expected.elements(), expected.shape);
  if (actual.elements() == 0) return "there is nothing to compare";
  if (actual.data == nullptr || expected.data == nullptr) return "a tensor without data is compared";
  if (overlap(actual, expected)) return "the two sides share memory";
  return "";
}

std::string position(const Shape& shape, int64_t i) {
  std::string s;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    s = fmt::format("{}{}{}", i % shape[d], s.empty() ? "" : ", ", s);
    i /= shape[d];
  }
  return fmt::format("[{}]", s);
}

}  // namespace

std::string compare(const ConstTensor& actual, const ConstTensor& expected, const Tolerance& tolerance) {
  if (std::string fault = unfit(actual, expected); !fault.empty()) return fault;
  const int64_t n = actual.elements();
  const bool elementwise = tolerance.mode == Tolerance::Mode::kElementwise;
  if (elementwise && static_cast<int64_t>(tolerance.bounds.size()) != n)
    return fmt::format("{} elementwise bounds for {} elements", tolerance.bounds.size(), n);
  if (!elementwise && !(tolerance.bound >= 0)) return fmt::format("the tolerance {} is no bound", tolerance.bound);

  double largest = 0, worst_excess = 0, worst_error = 0;
  bool any_nonzero = false;
  int64_t worst = -1, over = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = load_scalar(expected, i);
    if (std::isfinite(e)) largest = std::max(largest, std::abs(e));
    if (e != 0) any_nonzero = true;
  }
  for (int64_t i = 0; i < n; ++i) {
    const double a = load_scalar(actual, i), e = load_scalar(expected, i);
    if (std::isnan(a)) return fmt::format("NaN at {} (expected {})", position(actual.shape, i), e);
    if (std::isnan(e)) return fmt::format("the expectation is NaN at {}", position(actual.shape, i));
    if (std::isinf(a) || std::isinf(e)) {
      if (a == e) continue;
      return fmt::format("{} at {}, expected {}", a, position(actual.shape, i), e);
    }
    double bound = tolerance.bound;
    if (elementwise) {
      bound = tolerance.bounds[static_cast<size_t>(i)];
      if (!(bound >= 0)) return fmt::format("the tolerance {} at {} is no bound", bound, position(actual.shape, i));
    } else if (tolerance.mode == Tolerance::Mode::kRelativeToMax) {
      bound *= 1e-6 + largest;
    }
    const double error = std::abs(a - e), excess = error - bound;
    if (!(excess <= 0)) ++over;
    if (!(excess <= 0) && (worst < 0 || excess > worst_excess)) {
      worst = i;
      worst_excess = excess;
      worst_error = error;
    }
  }
  if (!any_nonzero) return "the expectation is zero everywhere; say expect_zero where that is meant";
  if (worst < 0) return "";
  return fmt::format(
      "{} of {} elements differ too much; worst at {}: got {:.10g}, expected {:.10g}, error {:.3g} (relative to the largest "
      "expected magnitude {:.3g}: {:.3g}), allowed {:.3g}",
      over, n, position(actual.shape, worst), load_scalar(actual, worst), load_scalar(expected, worst), worst_error, largest,
      worst_error / (1e-6 + largest), worst_error - worst_excess);
}

std::string compare_zero(const ConstTensor& actual, double bound) {
  if (actual.elements() == 0) return "there is nothing to compare with zero";
  if (actual.data == nullptr) return "a tensor without data is compared with zero";
  if (!(bound >= 0)) return fmt::format("the tolerance {} is no bound", bound);
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const double a = load_scalar(actual, i);
    if (!(std::abs(a) <= bound))
      return fmt::format("{} at {}, expected 0 within {}", a, position(actual.shape, i), bound);
  }
  return "";
}

std::string compare_bits(const ConstTensor& actual, const ConstTensor& expected) {
  if (std::string fault = unfit(actual, expected); !fault.empty()) return fault;
  if (actual.dtype != expected.dtype)
    return fmt::format("{} is compared bit by bit with {}", name_of(actual.dtype), name_of(expected.dtype));
  const size_t width = size_of(actual.dtype);
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const auto at = static_cast<size_t>(i) * width;
    if (std::memcmp(static_cast<const char*>(actual.data) + at, static_cast<const char*>(expected.data) + at, width) != 0)
      return fmt::format("different bits at {}: {:.17g} and {:.17g}", position(actual.shape, i), load_scalar(actual, i),
                         load_scalar(expected, i));
  }
  return "";
}

double relative_error(const ConstTensor& actual, const ConstTensor& expected) {
  check(actual.elements() == expected.elements(), "{} elements are compared with {}", actual.elements(), expected.elements());
  double error = 0, largest = 0;
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const double a = load_scalar(actual, i), e = load_scalar(expected, i);
    if (std::isnan(a) || std::isnan(e)) return std::nan("");
    error = std::max(error, std::abs(a - e));
    largest = std::max(largest, std::abs(e));
  }
  return error / (1e-6 + largest);
}

}  // namespace fovea::harness
