// Comparing tensors so that a wrong result cannot pass: the verdict is a sentence, empty when all is well.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace fovea::harness {

struct Tolerance {
  enum class Mode : uint8_t { kRelativeToMax, kAbsolute, kElementwise } mode = Mode::kRelativeToMax;
  double bound = 0;
  std::vector<double> bounds;  // kElementwise: one for each element

  // max|actual - expected| / (1e-6 + max|expected|) <= bound
  static Tolerance relative(double bound) { return {Mode::kRelativeToMax, bound, {}}; }
  // max|actual - expected| <= bound
  static Tolerance absolute(double bound) { return {Mode::kAbsolute, bound, {}}; }
  // |actual - expected| <= bounds[i] for every element
  static Tolerance elementwise(std::vector<double> bounds) { return {Mode::kElementwise, 0, std::move(bounds)}; }
};

// Besides a difference beyond the tolerance these are faults: NaN on either side, an infinity that the other side does not
// have, different numbers of elements, nothing to compare, memory that overlaps, an expectation of zeros only
// (compare_zero says that it is meant), and a tolerance that is negative or NaN.
std::string compare(const ConstTensor& actual, const ConstTensor& expected, const Tolerance& tolerance);

// |actual| <= bound everywhere. Faults: NaN, infinities, nothing to compare.
std::string compare_zero(const ConstTensor& actual, double bound);

// The same bytes. Faults: different element types or sizes, nothing to compare, overlapping memory.
std::string compare_bits(const ConstTensor& actual, const ConstTensor& expected);

// max|actual - expected| / (1e-6 + max|expected|); NaN when anything is.
double relative_error(const ConstTensor& actual, const ConstTensor& expected);

}  // namespace fovea::harness
