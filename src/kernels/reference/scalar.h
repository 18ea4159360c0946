// What every reference kernel is written over: a scalar type T, double or Dual, behind the table's void pointers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "core/dual.h"

namespace fovea::reference {

template <class T>
const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* out(void* p) {
  return static_cast<T*>(p);
}

inline double value_of(double x) { return x; }
inline double value_of(Dual x) { return x.v; }

inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

}  // namespace fovea::reference
