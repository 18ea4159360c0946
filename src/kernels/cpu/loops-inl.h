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
