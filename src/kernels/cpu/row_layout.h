// Where a row of a RowLayout begins.
#pragma once

#include "kernels/kernel_table.h"

namespace fovea {

inline int64_t row_offset(const RowLayout& rows, int64_t row) {
  if (rows.inner == 1) return row * rows.outer_stride;
  const int64_t i = row / rows.inner;
  return i * rows.outer_stride + (row - i * rows.inner) * rows.inner_stride;
}

}  // namespace fovea
