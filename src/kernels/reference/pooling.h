// Adaptive average pooling of token maps.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

// Calls f(offset of the token in x, row of out, tokens of the bin) for every token of every bin, bins in order.
template <class F>
void for_each_bin_token(const AdaptivePoolArgs& a, F&& f) {
  const auto begin = [](int64_t bin, int64_t bins, int64_t length) { return bin * length / bins; };
  const auto end = [](int64_t bin, int64_t bins, int64_t length) { return ((bin + 1) * length + bins - 1) / bins; };
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t oy = 0; oy < a.out_height; ++oy)
      for (int64_t ox = 0; ox < a.out_width; ++ox) {
        const int64_t top = begin(oy, a.out_height, a.height), bottom = end(oy, a.out_height, a.height);
        const int64_t left = begin(ox, a.out_width, a.width), right = end(ox, a.out_width, a.width);
        for (int64_t y = top; y < bottom; ++y)
          for (int64_t x = left; x < right; ++x)
            f(b * a.x_batch_stride + (y * a.width + x) * a.channels, (b * a.out_height + oy) * a.out_width + ox,
              (bottom - top) * (right - left));
      }
}

template <class T>
void adaptive_pool(const AdaptivePoolArgs& a, const void* x, void* y, Context&) {
  std::fill_n(out<T>(y), a.batch * a.out_height * a.out_width * a.channels, T(0));
  for_each_bin_token(a, [&](int64_t offset, int64_t row, int64_t count) {
    for (int64_t c = 0; c < a.channels; ++c)
      out<T>(y)[row * a.channels + c] += in<T>(x)[offset + c] / T(static_cast<double>(count));
  });
}

// dx = sum over the bins that hold the token of dout / tokens of the bin
template <class T>
void adaptive_pool_backward(const AdaptivePoolArgs& a, const void* dy, void* dx, Context&) {
  for (int64_t b = 0; b < a.batch; ++b)
    std::fill_n(out<T>(dx) + b * a.x_batch_stride, a.height * a.width * a.channels, T(0));
  for_each_bin_token(a, [&](int64_t offset, int64_t row, int64_t count) {
    for (int64_t c = 0; c < a.channels; ++c)
      out<T>(dx)[offset + c] += in<T>(dy)[row * a.channels + c] / T(static_cast<double>(count));
  });
}

}  // namespace fovea::reference
