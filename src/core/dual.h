// Dual numbers v + d·e with e² = 0: running a forward on them gives the exact directional derivative (no step size),
// which is the oracle of every backward. Comparisons look at the value only.
#pragma once

#include <cmath>

namespace fovea {

struct Dual {
  double v = 0;  // value
  double d = 0;  // derivative along the chosen direction

  Dual() = default;
  Dual(double value) : v(value) {}  // NOLINT: arithmetic code is written once for double and Dual
  Dual(double value, double derivative) : v(value), d(derivative) {}
  explicit operator double() const { return v; }
  explicit operator float() const { return static_cast<float>(v); }

  Dual& operator+=(Dual b) { return *this = {v + b.v, d + b.d}; }
  Dual& operator-=(Dual b) { return *this = {v - b.v, d - b.d}; }
  Dual& operator*=(Dual b) { return *this = {v * b.v, d * b.v + v * b.d}; }
  Dual& operator/=(Dual b) { return *this = {v / b.v, (d - v / b.v * b.d) / b.v}; }
};

inline Dual operator-(Dual a) { return {-a.v, -a.d}; }
inline Dual operator+(Dual a, Dual b) { return a += b; }
inline Dual operator-(Dual a, Dual b) { return a -= b; }
inline Dual operator*(Dual a, Dual b) { return a *= b; }
inline Dual operator/(Dual a, Dual b) { return a /= b; }
inline bool operator<(Dual a, Dual b) { return a.v < b.v; }
inline bool operator>(Dual a, Dual b) { return a.v > b.v; }
inline bool operator<=(Dual a, Dual b) { return a.v <= b.v; }
inline bool operator>=(Dual a, Dual b) { return a.v >= b.v; }
inline bool operator==(Dual a, Dual b) { return a.v == b.v; }
inline bool operator!=(Dual a, Dual b) { return a.v != b.v; }

inline Dual exp(Dual a) {
  const double e = std::exp(a.v);
  return {e, e * a.d};
}
inline Dual log(Dual a) { return {std::log(a.v), a.d / a.v}; }
inline Dual sqrt(Dual a) {
  const double s = std::sqrt(a.v);
  return {s, a.d / (2 * s)};
}
inline Dual erf(Dual a) { return {std::erf(a.v), a.d * 1.1283791670955126 * std::exp(-a.v * a.v)}; }
inline Dual tanh(Dual a) {
  const double t = std::tanh(a.v);
  return {t, a.d * (1 - t * t)};
}
inline Dual sin(Dual a) { return {std::sin(a.v), a.d * std::cos(a.v)}; }
inline Dual cos(Dual a) { return {std::cos(a.v), -a.d * std::sin(a.v)}; }
inline Dual fabs(Dual a) { return a.v < 0 ? -a : a; }
inline Dual pow(Dual a, double p) { return {std::pow(a.v, p), p * std::pow(a.v, p - 1) * a.d}; }
inline bool isnan(Dual a) { return std::isnan(a.v) || std::isnan(a.d); }
inline bool isfinite(Dual a) { return std::isfinite(a.v) && std::isfinite(a.d); }

}  // namespace fovea
