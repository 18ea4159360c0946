// Slots of a group and heads' rows in a buffer: what grouped attention and its relative term share.
#pragma once

#include "core/convert.h"
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

// Rows of heads that are stored as bfloat16, widened to (batch, rows, heads, channels) in scratch.
template <class T>
ConstHeadsView widened(const ConstHeadsView& view, int64_t batch, int64_t rows, int64_t heads, int64_t channels, Context& ctx) {
  if (!view.data) return view;
  T* wide = ctx.scratch().take<T>(batch * rows * heads * channels);
  T* to = wide;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < channels; ++d) *to++ = T(static_cast<double>(from_bf16(row_of<uint16_t>(view, b, n, h)[d])));
  return {wide, rows * heads * channels, heads * channels, channels};
}

}  // namespace fovea::reference
