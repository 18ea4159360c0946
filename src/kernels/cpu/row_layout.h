// Where a row of a RowLayout begins.
#pragma once

#include "kernels/kernel_table.h"

namespace fovea {

inline int64_t row_offset(const RowLayout& rows, int64_t row) {
  if (rows.inner == 1) return row * rows.outer_stride;
  const int64_t i = row / rows.inner;
  return i * rows.outer_stride + (row - i * rows.inner) * rows.inner_stride;
}

// Of neighbours from `row` on: one division for all.
template <int R>
inline void row_offsets(const RowLayout& rows, int64_t row, int64_t (&offsets)[R]) {
  int64_t i = rows.inner == 1 ? row : row / rows.inner, j = row - i * rows.inner;
  for (int r = 0; r < R; ++r) {
    offsets[r] = i * rows.outer_stride + j * rows.inner_stride;
    if (++j < rows.inner) continue;
    j = 0;
    ++i;
  }
}

}  // namespace fovea
