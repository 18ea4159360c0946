#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::optimizer_file {

// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// value -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay value)
void adamw(const AdamWArgs& a, Context& context) {
  const double step = static_cast<double>(a.step);
  const double correction1 = 1 - std::pow(a.beta1, step), correction2 = 1 - std::pow(a.beta2, step);
  parallel_elements(context, a.count, [&](int64_t begin, int64_t end) {
    const DF d;
    const auto set = [d](double value) { return hn::Set(d, static_cast<float>(value)); };
    const VF grad_scale = set(a.grad_scale), epsilon = set(a.epsilon);
    const VF beta1 = set(a.beta1), rest1 = set(1 - a.beta1), beta2 = set(a.beta2), rest2 = set(1 - a.beta2);
    const VF inverse_correction2 = set(1 / correction2);
    const VF rate = set(a.lr / correction1), decay = set(a.lr * a.weight_decay);
    ForVectors(begin, end, [&](int64_t, auto load, auto store) {
      const VF g = hn::Mul(load(f32(a.grad)), grad_scale);
      const VF m = hn::MulAdd(beta1, load(f32(a.m)), hn::Mul(rest1, g));
      const VF v = hn::MulAdd(beta2, load(f32(a.v)), hn::Mul(rest2, hn::Mul(g, g)));
      const VF value = load(f32(a.value));
      const VF ratio = hn::Div(m, hn::Add(hn::Sqrt(hn::Mul(v, inverse_correction2)), epsilon));
      store(m, f32(a.m));
      store(v, f32(a.v));
      store(hn::NegMulAdd(rate, ratio, hn::NegMulAdd(decay, value, value)), f32(a.value));
    });
  });
}

// The sum over one block, in lanes of double.
double block_sum_of_squares(int64_t begin, int64_t end, const float* x) {
  const hn::ScalableTag<double> d;
  using VD = hn::Vec<decltype(d)>;
  const hn::Rebind<float, decltype(d)> half;  // as many floats
  constexpr int64_t kHalf = kLanes / 2;
  constexpr int kSums = 4;
  VD sum[kSums];
  for (int s = 0; s < kSums; ++s) sum[s] = hn::Zero(d);
  int64_t i = begin;
  for (; i + kSums * kHalf <= end; i += kSums * kHalf)
    for (int s = 0; s < kSums; ++s) {
      const VD v = hn::PromoteTo(d, hn::LoadU(half, x + i + s * kHalf));
      sum[s] = hn::MulAdd(v, v, sum[s]);
    }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
  for (; i < end; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

double sum_of_squares(int64_t count, const void* x, Context& context) {
  constexpr int64_t kBlock = 16384;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  ArenaScope scope(context.scratch());
  double* partial = context.scratch().take<double>(blocks);
  parallel_for(context, blocks, kBlock / 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      partial[b] = block_sum_of_squares(b * kBlock, std::min((b + 1) * kBlock, count), f32(x));
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

void fill(KernelTable& t) {
  t.adamw = adamw;
  t.sum_of_squares = sum_of_squares;
}

}  // namespace fovea::HWY_NAMESPACE::optimizer_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_optimizer(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, optimizer_file); }
}  // namespace fovea
#endif
