// Slots of a group and heads' rows in a buffer: what grouped attention and its relative term share.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

struct Slot {
  int64_t row = 0;
  RowSource source = RowSource::kToken;
  bool free = false;
};

// A head's row in a buffer.
template <class T>
const T* row_of(const ConstHeadsView& view, int64_t b, int64_t row, int64_t h) {
  return in<T>(view.data) + b * view.batch_stride + row * view.token_stride + h * view.head_stride;
}
template <class T>
T* row_of(const HeadsView& view, int64_t b, int64_t row, int64_t h) {
  return view.data ? out<T>(view.data) + b * view.batch_stride + row * view.token_stride + h * view.head_stride : nullptr;
}

}  // namespace fovea::reference
