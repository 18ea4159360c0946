#include "core/shape.h"

#include <algorithm>

#include "core/check.h"

namespace fovea {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  require(dims.size() <= kMaxRank, "a shape has {} dimensions; at most {} are supported", dims.size(), kMaxRank);
  for (int64_t d : dims) require(d >= 0, "a shape has the negative dimension {}", d);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int64_t d : dims())
    require(!__builtin_mul_overflow(n, d, &n), "the number of elements of shape {} overflows 64 bits", *this);
  return n;
}

int64_t Shape::rows() const {
  int64_t n = 1;
  for (int i = 0; i + 1 < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
  return n;
}

std::string Shape::str() const { return fmt::format("[{}]", fmt::join(dims(), ", ")); }

bool Shape::operator==(const Shape& other) const { return std::ranges::equal(dims(), other.dims()); }

}  // namespace fovea
