// Scalars across element types.
#pragma once

#include "core/tensor.h"

namespace fovea {

double load_scalar(const ConstTensor& t, int64_t i);          // element i in row-major order, as double (a Dual's value)
void store_scalar(const Tensor& t, int64_t i, double value);  // likewise; rounds to the element type

// Copies `from` to `to` (same number of elements), converting the element type.
void convert(const ConstTensor& from, const Tensor& to);

}  // namespace fovea
