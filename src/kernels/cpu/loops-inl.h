// Loops over f32 ranges shared by the kernel files, per instruction set (see math-inl.h for how to include it).
#if defined(FOVEA_KERNELS_CPU_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_CPU_LOOPS_INL_H_
#undef FOVEA_KERNELS_CPU_LOOPS_INL_H_
#else
#define FOVEA_KERNELS_CPU_LOOPS_INL_H_
#endif

#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));

// Calls f(c, load, store) for every vector of [begin, end): load(p) reads p[c ...], store(v, p) writes p[c ...], whole
// vectors first and then the partial one.
template <class F>
HWY_INLINE void ForVectors(int64_t begin, int64_t end, F&& f) {
  const DF d;
  int64_t c = begin;
  for (; c + kLanes <= end; c += kLanes)
    f(c, [c, d](const float* p) { return hn::LoadU(d, p + c); }, [c, d](VF v, float* p) { hn::StoreU(v, d, p + c); });
  if (c < end) {
    const size_t n = static_cast<size_t>(end - c);
    f(c, [c, d, n](const float* p) { return LoadTail(d, p + c, n); },
      [c, d, n](VF v, float* p) { StoreTail(v, d, p + c, n); });
  }
}

// y[i] = f(x[i]...) for i of [begin, end); y may be any of the x.
template <class F, class... X>
HWY_INLINE void Transform(int64_t begin, int64_t end, float* y, F&& f, const X*... x) {
  ForVectors(begin, end, [&](int64_t, auto load, auto store) { store(f(load(x)...), y); });
}

// Rows whose sums are taken together, and a vector of one result for each.
constexpr int kSumRows = 4;
using D4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<D4>;

template <class D>
HWY_INLINE V4 Fold(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    (void)d;
    return v;
  } else {
    const hn::Half<D> half;
    return Fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// The sums of four vectors' lanes.
HWY_INLINE V4 Sums(VF v0, VF v1, VF v2, VF v3) {
  const DF d;
  const D4 d4;
  const V4 a = Fold(d, v0), b = Fold(d, v1), c = Fold(d, v2), e = Fold(d, v3);
  const V4 ab = hn::Add(hn::InterleaveLower(d4, a, b), hn::InterleaveUpper(d4, a, b));
  const V4 ce = hn::Add(hn::InterleaveLower(d4, c, e), hn::InterleaveUpper(d4, c, e));
  return hn::Add(hn::ConcatLowerLower(d4, ce, ab), hn::ConcatUpperUpper(d4, ce, ab));
}

template <int R>
HWY_INLINE V4 SumsOf(const VF (&v)[R]) {
  if constexpr (R == kSumRows)
    return Sums(v[0], v[1], v[2], v[3]);
  else
    return Sums(v[0], v[0], v[0], v[0]);
}

// sum (channels) += the rows of partial (count, channels), in their order.
HWY_INLINE void AddPartials(int64_t count, int64_t channels, const float* partial, float* sum) {
  ForVectors(0, channels, [&](int64_t, auto load, auto store) {
    auto total = hn::Zero(DF());
    for (int64_t i = 0; i < count; ++i) total = hn::Add(total, load(partial + i * channels));
    store(hn::Add(load(sum), total), sum);
  });
}

}  // namespace fovea::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_KERNELS_CPU_LOOPS_INL_H_
