// Scalars across element types.
#pragma once

#include "core/tensor.h"

namespace fovea {

double load_scalar(const ConstTensor& t, int64_t i);          // element i in row-major order, as double (a Dual's value)
void store_scalar(const Tensor& t, int64_t i, double value);  // likewise; rounds to the element type

float from_bf16(uint16_t h);
uint16_t to_bf16(float f);  // to the nearest, ties to even; a NaN stays one

// Copies `from` to `to` (same number of elements), converting the element type.
void convert(const ConstTensor& from, const Tensor& to);

}  // namespace fovea
