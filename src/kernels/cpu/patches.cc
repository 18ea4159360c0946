#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/patches.cc"
#include "kernels/cpu/isa.h"

#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/loops-inl.h"

#ifndef FOVEA_KERNELS_CPU_PATCHES_RANGES
#define FOVEA_KERNELS_CPU_PATCHES_RANGES
namespace fovea {

struct Range {
  int64_t begin = 0, end = 0;
};

// Taps k of [0, kernel) whose place `origin` + k lies in [0, size).
inline Range taps_inside(int64_t origin, int64_t kernel, int64_t size) {
  const int64_t begin = std::clamp<int64_t>(-origin, 0, kernel);
  return {begin, std::clamp<int64_t>(size - origin, begin, kernel)};
}

// Windows o of [0, count) that show the place `at`: o * stride - pad <= at < o * stride - pad + kernel.
inline Range windows_showing(int64_t at, int64_t kernel, int64_t stride, int64_t pad, int64_t count) {
  const int64_t shifted = at + pad;
  const int64_t begin = shifted < kernel ? 0 : (shifted - kernel) / stride + 1;
  const int64_t end = std::min(count, shifted < 0 ? 0 : shifted / stride + 1);
  return {std::min(begin, end), end};
}

}  // namespace fovea
#endif

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::patches_file {

// One patch: rows of `kernel_w` taps that lie next to each other in x (column stride 1).
HWY_INLINE void gather_runs(const PatchesArgs& a, const float* x, Range rows, Range columns, float* out) {
  for (int64_t c = 0; c < a.channels; ++c)
    for (int64_t ky = 0; ky < a.kernel_h; ++ky, out += a.kernel_w) {
      if (ky < rows.begin || ky >= rows.end) {
        std::fill_n(out, a.kernel_w, 0.0f);
        continue;
      }
      const float* from = x + c * a.x_channel_stride + ky * a.x_row_stride;
      for (int64_t kx = 0; kx < columns.begin; ++kx) out[kx] = 0;
      Transform(columns.begin, columns.end, out, [](VF v) { return v; }, from);
      for (int64_t kx = columns.end; kx < a.kernel_w; ++kx) out[kx] = 0;
    }
}

// One patch of any layout.
HWY_INLINE void gather_taps(const PatchesArgs& a, const float* x, Range rows, Range columns, float* out) {
  const bool whole = rows.begin == 0 && rows.end == a.kernel_h && columns.begin == 0 && columns.end == a.kernel_w;
  for (int64_t c = 0; c < a.channels; ++c)
    for (int64_t ky = 0; ky < a.kernel_h; ++ky, out += a.kernel_w) {
      const float* from = x + c * a.x_channel_stride + ky * a.x_row_stride;
      if (whole) {
        for (int64_t kx = 0; kx < a.kernel_w; ++kx) out[kx] = from[kx * a.x_column_stride];
      } else {
        const bool row_inside = ky >= rows.begin && ky < rows.end;
        for (int64_t kx = 0; kx < a.kernel_w; ++kx)
          out[kx] = row_inside && kx >= columns.begin && kx < columns.end ? from[kx * a.x_column_stride] : 0.0f;
      }
    }
}

// Images with patches of four columns, the stem of hierarchical models: a run is one 128-bit vector.
HWY_INLINE void gather_fours(const PatchesArgs& a, const float* x, float* out) {
  const hn::FixedTag<float, 4> d;
  for (int64_t c = 0; c < a.channels; ++c)
    for (int64_t ky = 0; ky < a.kernel_h; ++ky, out += 4)
      hn::StoreU(hn::LoadU(d, x + c * a.x_channel_stride + ky * a.x_row_stride), d, out);
}

// Asks for what the patches below will add to the lines of this one's columns: images come from the memory, in more streams than processors foresee.
HWY_INLINE void fetch_below(const PatchesArgs& a, const float* corner, int64_t left) {
  constexpr int64_t kLine = 64 / sizeof(float);
  if (left % kLine >= a.stride_w) return;  // asked for by a patch before
  const int64_t rows = std::min(a.stride_h, a.kernel_h);
  for (int64_t c = 0; c < a.channels; ++c)
    for (int64_t ky = a.kernel_h - rows; ky < a.kernel_h; ++ky)
      for (int64_t kx = 0; kx < a.stride_w; kx += kLine) hwy::Prefetch(corner + c * a.x_channel_stride + (a.stride_h + ky) * a.x_row_stride + kx);
}

void patches(const PatchesArgs& a, const void* x, void* out, Context& context) {
  const int64_t columns = a.channels * a.kernel_h * a.kernel_w;
  parallel_for(context, a.batch * a.out_height, a.out_width * columns, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / a.out_height, oy = item % a.out_height;
      const int64_t y = oy * a.stride_h - a.pad_top;
      const Range rows = taps_inside(y, a.kernel_h, a.height);
      for (int64_t ox = 0; ox < a.out_width; ++ox) {
        const int64_t left = ox * a.stride_w - a.pad_left;
        const Range taps = taps_inside(left, a.kernel_w, a.width);
        // The corner may lie outside the map: it is only ever used with a tap that lies inside.
        const float* corner = f32(x) + b * a.x_batch_stride + y * a.x_row_stride + left * a.x_column_stride;
        float* to = f32(out) + (item * a.out_width + ox) * columns;
        const bool whole = rows.begin == 0 && rows.end == a.kernel_h && taps.begin == 0 && taps.end == a.kernel_w;
        if (a.x_column_stride == 1 && y + a.stride_h + a.kernel_h <= a.height && left >= 0) fetch_below(a, corner, left);
        if (a.x_column_stride != 1 || a.kernel_w < 4)
          gather_taps(a, corner, rows, taps, to);
        else if (whole && a.kernel_w == 4)
          gather_fours(a, corner, to);
        else
          gather_runs(a, corner, rows, taps, to);
      }
    }
  });
}

// dx(b, c, y, x) = sum of the elements of dout that show it, by rising window. A thread owns rows of dx.
void patches_backward(const PatchesArgs& a, const void* dout, void* dx, Context& context) {
  const int64_t taps = a.kernel_h * a.kernel_w, columns = a.channels * taps;
  parallel_for(context, a.batch * a.height, a.width * a.channels * 4, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / a.height, y = item % a.height;
      float* row = f32(dx) + b * a.x_batch_stride + y * a.x_row_stride;
      const bool channels_inside = a.x_channel_stride <= a.x_column_stride;  // the faster axis innermost
      if (channels_inside) {
        for (int64_t x = 0; x < a.width; ++x)
          for (int64_t c = 0; c < a.channels; ++c) row[c * a.x_channel_stride + x * a.x_column_stride] = 0;
      } else {
        for (int64_t c = 0; c < a.channels; ++c)
          for (int64_t x = 0; x < a.width; ++x) row[c * a.x_channel_stride + x * a.x_column_stride] = 0;
      }
      const Range windows = windows_showing(y, a.kernel_h, a.stride_h, a.pad_top, a.out_height);
      for (int64_t oy = windows.begin; oy < windows.end; ++oy) {
        const int64_t ky = y - (oy * a.stride_h - a.pad_top);
        for (int64_t ox = 0; ox < a.out_width; ++ox) {
          const int64_t left = ox * a.stride_w - a.pad_left;
          const Range inside = taps_inside(left, a.kernel_w, a.width);
          const float* from = f32(dout) + ((b * a.out_height + oy) * a.out_width + ox) * columns + ky * a.kernel_w;
          float* to = row + left * a.x_column_stride;
          if (channels_inside) {
            for (int64_t kx = inside.begin; kx < inside.end; ++kx)
              for (int64_t c = 0; c < a.channels; ++c)
                to[kx * a.x_column_stride + c * a.x_channel_stride] += from[c * taps + kx];
          } else {
            for (int64_t c = 0; c < a.channels; ++c)
              for (int64_t kx = inside.begin; kx < inside.end; ++kx)
                to[c * a.x_channel_stride + kx * a.x_column_stride] += from[c * taps + kx];
          }
        }
      }
    }
  });
}

void fill(KernelTable& t) {
  t.patches = patches;
  t.patches_backward = patches_backward;
}

}  // namespace fovea::HWY_NAMESPACE::patches_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_patches(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, patches_file); }
}  // namespace fovea
#endif
