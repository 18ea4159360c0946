// Depthwise 3x3 convolution inside blocks of a map, straight from the definition.
#pragma once

#include "core/check.h"
#include "core/convert.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

// Calls f(b, token, neighbour, tap) for every pair that a tap joins: both inside the map, in one block, neither skipped.
template <class F>
void for_each_tap(const Depthwise3x3Args& a, F&& f) {
  const auto there = [&](int64_t b, int64_t t) { return !a.skip || a.skip[b * a.skip_batch_stride + t] == 0; };
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t y = 0; y < a.height; ++y)
      for (int64_t x = 0; x < a.width; ++x)
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t ny = y + tap / 3 - 1, nx = x + tap % 3 - 1;
          if (ny < 0 || ny >= a.height || nx < 0 || nx >= a.width) continue;
          if ((ny + a.block_top) / a.block_h != (y + a.block_top) / a.block_h) continue;
          if ((nx + a.block_left) / a.block_w != (x + a.block_left) / a.block_w) continue;
          const int64_t token = y * a.width + x, neighbour = ny * a.width + nx;
          if (there(b, token) && there(b, neighbour)) f(b, token, neighbour, tap);
        }
}

template <class T>
const T* token_of(const ConstHeadsView& view, int64_t b, int64_t token) {
  return in<T>(view.data) + b * view.batch_stride + token * view.token_stride;
}
template <class T>
T* token_of(const HeadsView& view, int64_t b, int64_t token) {
  return out<T>(view.data) + b * view.batch_stride + token * view.token_stride;
}

template <class T>
void depthwise3x3(const Depthwise3x3Args& a, Context&) {
  const auto x = [&](int64_t b, int64_t t, int64_t c) {
    return a.x_bf16 ? T(static_cast<double>(from_bf16(token_of<uint16_t>(a.x, b, t)[c]))) : token_of<T>(a.x, b, t)[c];
  };
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t t = 0; t < a.height * a.width; ++t)
      for (int64_t c = 0; c < a.channels; ++c) {
        const bool there = !a.skip || a.skip[b * a.skip_batch_stride + t] == 0;
        const T before = a.residual.data ? token_of<T>(a.residual, b, t)[c] : T(0);
        token_of<T>(a.y, b, t)[c] = there && a.bias ? before + in<T>(a.bias)[c] : before;
      }
  for_each_tap(a, [&](int64_t b, int64_t token, int64_t neighbour, int64_t tap) {
    for (int64_t c = 0; c < a.channels; ++c)
      token_of<T>(a.y, b, token)[c] += in<T>(a.weight)[c * 9 + tap] * x(b, neighbour, c);
  });
}

// With G = dy where tokens are there: dx(n) += sum over (t, tap) that see n of weight[tap] G(t), dweight[tap] += sum over t of
// G(t) x(t + tap), dbias += sum over t of G(t).
template <class T>
void depthwise3x3_backward(const Depthwise3x3BackwardArgs& args, Context&) {
  const Depthwise3x3Args& a = args.forward;
  check(!a.x_bf16, "the convolution's backward reads x in the table's own type");
  for_each_tap(a, [&](int64_t b, int64_t token, int64_t neighbour, int64_t tap) {
    const T* g = token_of<T>(args.dy, b, token);
    for (int64_t c = 0; c < a.channels; ++c) {
      if (args.dx.data) token_of<T>(args.dx, b, neighbour)[c] += in<T>(a.weight)[c * 9 + tap] * g[c];
      if (args.dweight) out<T>(args.dweight)[c * 9 + tap] += g[c] * token_of<T>(a.x, b, neighbour)[c];
      if (args.dbias && tap == 4) out<T>(args.dbias)[c] += g[c];  // the middle tap is always there
    }
  });
}

}  // namespace fovea::reference
