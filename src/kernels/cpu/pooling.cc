#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pooling.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/loops-inl.h"

#ifndef FOVEA_KERNELS_CPU_POOLING_BINS
#define FOVEA_KERNELS_CPU_POOLING_BINS
namespace fovea {

// The bins of one axis.
struct Bins {
  int64_t count = 0, length = 0;

  int64_t begin(int64_t bin) const { return bin * length / count; }
  int64_t end(int64_t bin) const { return ((bin + 1) * length + count - 1) / count; }
  int64_t size(int64_t bin) const { return end(bin) - begin(bin); }
  // Bins with `at` in them are [first, last]: a bin begins at or before `at` iff bin * length < (at + 1) * count, and ends
  // behind it iff (bin + 1) * length > at * count.
  int64_t first(int64_t at) const { return at * count / length; }
  int64_t last(int64_t at) const { return ((at + 1) * count - 1) / length; }
};

}  // namespace fovea
#endif

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::pooling_file {

void adaptive_pool(const AdaptivePoolArgs& a, const void* x, void* out, Context& context) {
  const Bins rows{a.out_height, a.height}, columns{a.out_width, a.width};
  const int64_t cells = a.out_height * a.out_width;
  if (cells == 0) return;
  const int64_t bin_tokens = (a.height / a.out_height + 1) * (a.width / a.out_width + 1);
  parallel_for(context, a.batch * cells, bin_tokens * a.channels, [&](int64_t begin, int64_t end) {
    const DF d;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / cells, oy = item % cells / a.out_width, ox = item % a.out_width;
      const float* map = f32(x) + b * a.x_batch_stride;
      const auto share = static_cast<float>(1.0 / static_cast<double>(rows.size(oy) * columns.size(ox)));
      ForVectors(0, a.channels, [&](int64_t, auto load, auto store) {
        VF sum = hn::Zero(d);
        for (int64_t y = rows.begin(oy); y < rows.end(oy); ++y)
          for (int64_t column = columns.begin(ox); column < columns.end(ox); ++column)
            sum = hn::Add(sum, load(map + (y * a.width + column) * a.channels));
        store(hn::Mul(sum, hn::Set(d, share)), f32(out) + item * a.channels);
      });
    }
  });
}

// dx = sum over the bins that hold the token of dout / tokens of the bin. A thread owns tokens of dx.
void adaptive_pool_backward(const AdaptivePoolArgs& a, const void* dout, void* dx, Context& context) {
  const Bins rows{a.out_height, a.height}, columns{a.out_width, a.width};
  const int64_t tokens = a.height * a.width;
  parallel_for(context, a.batch * tokens, a.channels * 4, [&](int64_t begin, int64_t end) {
    const DF d;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tokens, y = item % tokens / a.width, column = item % a.width;
      float* to = f32(dx) + b * a.x_batch_stride + item % tokens * a.channels;
      ForVectors(0, a.channels, [&](int64_t, auto load, auto store) {
        VF sum = hn::Zero(d);
        for (int64_t oy = rows.first(y); oy <= rows.last(y); ++oy)
          for (int64_t ox = columns.first(column); ox <= columns.last(column); ++ox) {
            const auto share = static_cast<float>(1.0 / static_cast<double>(rows.size(oy) * columns.size(ox)));
            const float* g = f32(dout) + ((b * a.out_height + oy) * a.out_width + ox) * a.channels;
            sum = hn::MulAdd(hn::Set(d, share), load(g), sum);
          }
        store(sum, to);
      });
    }
  });
}

void fill(KernelTable& t) {
  t.adaptive_pool = adaptive_pool;
  t.adaptive_pool_backward = adaptive_pool_backward;
}

}  // namespace fovea::HWY_NAMESPACE::pooling_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_pooling(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, pooling_file); }
}  // namespace fovea
#endif
