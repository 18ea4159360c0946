#include "kernels/cpu/gelu_table.h"

#include <array>
#include <cmath>

#include "core/check.h"

namespace fovea {

namespace {

constexpr double kPieceWidth = 0.36;  // the last piece ends at 15.5 of them, where r is below 1e-7

// What gelu lacks to max(x, 0), at |x| = a; smooth through 0.
double lack(Activation activation, double a) {
  if (activation == Activation::kGelu) return 0.5 * a * std::erfc(a / std::sqrt(2.0));
  const double u = std::sqrt(2 / M_PI) * (a + 0.044715 * a * a * a);
  return a / (1 + std::exp(2 * u));
}

// The polynomial through the values at Chebyshev's nodes of [-1/2, 1/2], by Newton's divided differences.
template <class F>
void interpolate(F&& f, int degree, double* coefficients) {
  std::array<double, GeluTable::kMaxDegree + 1> x{}, divided{};
  for (int i = 0; i <= degree; ++i) {
    x[static_cast<size_t>(i)] = 0.5 * std::cos(M_PI * (2 * i + 1) / (2.0 * (degree + 1)));
    divided[static_cast<size_t>(i)] = f(x[static_cast<size_t>(i)]);
  }
  for (int order = 1; order <= degree; ++order)
    for (int i = degree; i >= order; --i) {
      const auto at = static_cast<size_t>(i), before = static_cast<size_t>(i - order);
      divided[at] = (divided[at] - divided[at - 1]) / (x[at] - x[before]);
    }
  // From the innermost factor (t - x) outwards.
  std::fill_n(coefficients, degree + 1, 0.0);
  for (int i = degree; i >= 0; --i) {
    for (int n = degree; n > 0; --n) coefficients[n] = coefficients[n - 1] - x[static_cast<size_t>(i)] * coefficients[n];
    coefficients[0] = divided[static_cast<size_t>(i)] - x[static_cast<size_t>(i)] * coefficients[0];
  }
}

// A polynomial in a / kPieceWidth - i to one in a.
void expand(int degree, int i, double* coefficients) {
  for (int lowest = 0; lowest < degree; ++lowest)  // Taylor's shift by Horner's rule
    for (int n = degree - 1; n >= lowest; --n) coefficients[n] -= i * coefficients[n + 1];
  for (int n = 1; n <= degree; ++n) coefficients[n] /= std::pow(kPieceWidth, n);
}

GeluTable make(Activation activation, int degree) {
  GeluTable t{};
  t.bound = static_cast<float>(kPieceWidth * (GeluTable::kPieces - 0.5));
  t.inverse_width = static_cast<float>(1 / kPieceWidth);
  t.to_integer = 0x1.8p23F;
  for (int i = 0; i < GeluTable::kPieces; ++i) {
    std::array<double, GeluTable::kMaxDegree + 1> c{};
    interpolate([&](double x) { return lack(activation, (x + i) * kPieceWidth); }, degree, c.data());
    if (degree == 3) expand(degree, i, c.data());
    for (int n = 0; n <= degree; ++n) t.coefficients[n][i] = static_cast<float>(c[static_cast<size_t>(n)]);
  }
  return t;
}

}  // namespace

const GeluTable& gelu_table(Activation activation, int degree) {
  check((activation == Activation::kGelu || activation == Activation::kGeluTanh) && (degree == 3 || degree == 5),
        "there is no table of degree {} for this activation", degree);
  static const GeluTable tables[2][2] = {{make(Activation::kGelu, 3), make(Activation::kGelu, 5)},
                                         {make(Activation::kGeluTanh, 3), make(Activation::kGeluTanh, 5)}};
  return tables[activation == Activation::kGeluTanh][degree == 5];
}

}  // namespace fovea
