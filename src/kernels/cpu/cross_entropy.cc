#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cross_entropy.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "kernels/cpu/loops-inl.h"

#ifndef FOVEA_KERNELS_CPU_CROSS_ENTROPY_LABELS
#define FOVEA_KERNELS_CPU_CROSS_ENTROPY_LABELS
namespace fovea {

inline void check_labels(const CrossEntropyArgs& a) {
  if (a.soft_targets) return;
  for (int64_t r = 0; r < a.rows; ++r)
    check(a.labels[r] >= 0 && a.labels[r] < a.classes, "label {} of row {} is none of {} classes", a.labels[r], r, a.classes);
}

}  // namespace fovea
#endif

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::cross_entropy_file {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The largest of a row's logits; which one wins beside a NaN does not matter, the sum of exponentials is NaN then.
HWY_INLINE float RowMax(int64_t classes, const float* x) {
  const DF d;
  VF largest = hn::Set(d, -kInfinity);
  int64_t c = 0;
  for (; c + kLanes <= classes; c += kLanes) largest = hn::Max(largest, hn::LoadU(d, x + c));
  float max = ReduceMax(d, largest);
  for (; c < classes; ++c) max = x[c] > max ? x[c] : max;
  return max;
}

// Calls f(e^(x - max), x - max, load, store) for every vector of a row and returns the sum of the first; lanes past a
// partial vector are zero in both.
template <class F>
HWY_INLINE float SumExp(int64_t classes, const float* x, float max, F&& f) {
  const DF d;
  const VF shift = hn::Set(d, max);
  VF sum = hn::Zero(d);
  ForVectors(0, classes, [&](int64_t c, auto load, auto store) {
    VF t = hn::Sub(load(x), shift);
    VF e = Exp(d, t);
    if (c + kLanes > classes) {
      const auto inside = hn::FirstN(d, static_cast<size_t>(classes - c));
      t = hn::IfThenElseZero(inside, t);
      e = hn::IfThenElseZero(inside, e);
    }
    sum = hn::Add(sum, e);
    f(e, t, load, store);
  });
  return ReduceSum(d, sum);
}

// loss = sum over classes of target (log sum_exp - logit), target = (1 - smoothing) t + smoothing / classes.
void cross_entropy(const CrossEntropyArgs& a, Context& context) {
  check_labels(a);
  const double keep = 1 - a.smoothing, spread = a.classes ? a.smoothing / static_cast<double>(a.classes) : 0;
  parallel_for(context, a.rows, 4 * a.classes, [&](int64_t begin, int64_t end) {
    const DF d;
    for (int64_t r = begin; r < end; ++r) {
      const float* x = f32(a.logits) + r * a.classes;
      const float max = RowMax(a.classes, x);
      double loss;
      if (a.soft_targets) {
        const float* target = f32(a.soft_targets) + r * a.classes;
        VF total = hn::Zero(d), dot = hn::Zero(d), plain = hn::Zero(d);
        const double log_sum =
            std::log(static_cast<double>(SumExp(a.classes, x, max, [&](VF, VF t, auto load, auto) {
              const VF p = load(target);
              total = hn::Add(total, p);
              dot = hn::MulAdd(p, t, dot);
              plain = hn::Add(plain, t);
            })));
        loss = keep * (log_sum * ReduceSum(d, total) - ReduceSum(d, dot));
        if (a.smoothing != 0) loss += a.smoothing * log_sum - spread * ReduceSum(d, plain);
      } else {
        VF plain = hn::Zero(d);
        const double log_sum = std::log(static_cast<double>(
            SumExp(a.classes, x, max, [&](VF, VF t, auto, auto) { plain = hn::Add(plain, t); })));
        loss = keep * (log_sum - (static_cast<double>(x[a.labels[r]]) - max));
        if (a.smoothing != 0) loss += a.smoothing * log_sum - spread * ReduceSum(d, plain);
      }
      f32(a.loss)[r] = static_cast<float>(loss);
    }
  });
}

// dlogits = dloss (softmax(logits) sum(target) - target)
void cross_entropy_backward(const CrossEntropyArgs& a, Context& context) {
  check_labels(a);
  const float dloss = static_cast<float>(a.dloss);
  const float keep = static_cast<float>(a.dloss * (1 - a.smoothing));
  const float spread = a.classes ? static_cast<float>(a.dloss * a.smoothing / static_cast<double>(a.classes)) : 0.0f;
  parallel_for(context, a.rows, 4 * a.classes, [&](int64_t begin, int64_t end) {
    const DF d;
    for (int64_t r = begin; r < end; ++r) {
      const float* x = f32(a.logits) + r * a.classes;
      const float* target = a.soft_targets ? f32(a.soft_targets) + r * a.classes : nullptr;
      float* dx = f32(a.dlogits) + r * a.classes;
      VF total = hn::Zero(d);
      const float sum = SumExp(a.classes, x, RowMax(a.classes, x), [&](VF e, VF, auto load, auto store) {
        if (target) total = hn::Add(total, load(target));
        store(e, dx);
      });
      const double weight = target ? (1 - a.smoothing) * ReduceSum(d, total) + a.smoothing : 1.0;
      const VF scale = hn::Set(d, static_cast<float>(dloss * weight / sum));
      const VF spread_v = hn::Set(d, spread), keep_v = hn::Set(d, keep);
      ForVectors(0, a.classes, [&](int64_t, auto load, auto store) {
        const VF p = hn::MulSub(load(dx), scale, spread_v);
        store(target ? hn::NegMulAdd(keep_v, load(target), p) : p, dx);
      });
      if (!target) dx[a.labels[r]] -= keep;
    }
  });
}

void fill(KernelTable& t) {
  t.cross_entropy = cross_entropy;
  t.cross_entropy_backward = cross_entropy_backward;
}

}  // namespace fovea::HWY_NAMESPACE::cross_entropy_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_cross_entropy(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, cross_entropy_file); }
}  // namespace fovea
#endif
