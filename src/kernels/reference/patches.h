// Patches of a map as rows of a matrix (im2col) and the transpose.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

// Calls f(offset in x, or -1 outside the map; index in out) for every element of the patch matrix, in its order.
template <class F>
void for_each_patch_element(const PatchesArgs& a, F&& f) {
  int64_t i = 0;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t oy = 0; oy < a.out_height; ++oy)
      for (int64_t ox = 0; ox < a.out_width; ++ox)
        for (int64_t c = 0; c < a.channels; ++c)
          for (int64_t ky = 0; ky < a.kernel_h; ++ky)
            for (int64_t kx = 0; kx < a.kernel_w; ++kx, ++i) {
              const int64_t y = oy * a.stride_h - a.pad_top + ky, x = ox * a.stride_w - a.pad_left + kx;
              const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
              f(inside ? b * a.x_batch_stride + c * a.x_channel_stride + y * a.x_row_stride + x * a.x_column_stride : -1, i);
            }
}

template <class T>
void patches(const PatchesArgs& a, const void* x, void* y, Context&) {
  for_each_patch_element(a, [&](int64_t offset, int64_t i) { out<T>(y)[i] = offset < 0 ? T(0) : in<T>(x)[offset]; });
}

// dx = sum of the patch elements that show it
template <class T>
void patches_backward(const PatchesArgs& a, const void* dy, void* dx, Context&) {
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t c = 0; c < a.channels; ++c)
      for (int64_t y = 0; y < a.height; ++y)
        for (int64_t x = 0; x < a.width; ++x)
          out<T>(dx)[b * a.x_batch_stride + c * a.x_channel_stride + y * a.x_row_stride + x * a.x_column_stride] = T(0);
  for_each_patch_element(a, [&](int64_t offset, int64_t i) {
    if (offset >= 0) out<T>(dx)[offset] += in<T>(dy)[i];
  });
}

}  // namespace fovea::reference
