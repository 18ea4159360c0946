// Mean and deviation of rows, for layer norm and for products that normalise their rows (see math-inl.h for how to include it).
#if defined(FOVEA_KERNELS_CPU_ROW_STATISTICS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_CPU_ROW_STATISTICS_INL_H_
#undef FOVEA_KERNELS_CPU_ROW_STATISTICS_INL_H_
#else
#define FOVEA_KERNELS_CPU_ROW_STATISTICS_INL_H_
#endif

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE {

// Lane sums of a row, in four parts: an addition need not wait for the one before it.
HWY_INLINE VF RowSum(int64_t channels, const float* x) {
  const DF d;
  VF part[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
    for (int i = 0; i < 4; ++i) part[i] = hn::Add(part[i], hn::LoadU(d, x + c + i * kLanes));
  VF total = hn::Add(hn::Add(part[0], part[1]), hn::Add(part[2], part[3]));
  ForVectors(c, channels, [&](int64_t, auto load, auto) { total = hn::Add(total, load(x)); });
  return total;
}

// mean and rstd = 1 / sqrt(population variance + epsilon) of R rows x, in two passes over each (cached) row; both aligned and of
// kSumRows. R is 1 or kSumRows: together their reductions share instructions, and a row's bits do not depend on its place.
template <int R>
HWY_INLINE void RowStatistics(const float* const (&x)[R], int64_t channels, float epsilon, float* mean, float* rstd) {
  const DF d;
  const D4 d4;
  VF sum[R];
  for (int r = 0; r < R; ++r) sum[r] = RowSum(channels, x[r]);
  const V4 count = hn::Set(d4, static_cast<float>(channels));
  hn::Store(hn::Div(SumsOf(sum), count), d4, mean);
  VF center[R], square[R];
  for (int r = 0; r < R; ++r) {
    center[r] = hn::Set(d, mean[r]);
    square[r] = hn::Zero(d);
  }
  int64_t c = 0;  // the rows are in the cache by now: side by side, four sums at a time
  for (; c + kLanes <= channels; c += kLanes)
    for (int r = 0; r < R; ++r) {
      const VF delta = hn::Sub(hn::LoadU(d, x[r] + c), center[r]);
      square[r] = hn::MulAdd(delta, delta, square[r]);
    }
  if (c < channels) {
    const size_t n = static_cast<size_t>(channels - c);
    for (int r = 0; r < R; ++r) {
      const VF delta = hn::IfThenElseZero(hn::FirstN(d, n), hn::Sub(LoadTail(d, x[r] + c, n), center[r]));
      square[r] = hn::MulAdd(delta, delta, square[r]);
    }
  }
  const V4 variance = hn::Div(SumsOf(square), count);
  hn::Store(hn::Div(hn::Set(d4, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d4, epsilon)))), d4, rstd);
}

}  // namespace fovea::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_KERNELS_CPU_ROW_STATISTICS_INL_H_
