#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::activation_file {

void activation(Activation kind, int64_t count, const void* x, void* y, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    const DF d;
    switch (kind) {
      case Activation::kNone:
        if (x != y) std::memcpy(f32(y) + begin, f32(x) + begin, static_cast<size_t>(end - begin) * sizeof(float));
        break;
      case Activation::kGelu:
        Transform(begin, end, f32(y), [d](VF v) { return Gelu(d, v); }, f32(x));
        break;
      case Activation::kGeluTanh:
        Transform(begin, end, f32(y), [d](VF v) { return GeluTanh(d, v); }, f32(x));
        break;
      case Activation::kRelu:  // zero first: NaN passes
        Transform(begin, end, f32(y), [d](VF v) { return hn::Max(hn::Zero(d), v); }, f32(x));
        break;
    }
  });
}

// dx = dy act'(x)
void activation_backward(Activation kind, int64_t count, const void* x, const void* dy, void* dx, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    const DF d;
    switch (kind) {
      case Activation::kNone:
        if (dx != dy) std::memcpy(f32(dx) + begin, f32(dy) + begin, static_cast<size_t>(end - begin) * sizeof(float));
        break;
      case Activation::kGelu:
        Transform(begin, end, f32(dx), [d](VF v, VF g) { return hn::Mul(g, GeluGrad(d, v)); }, f32(x), f32(dy));
        break;
      case Activation::kGeluTanh:
        Transform(begin, end, f32(dx), [d](VF v, VF g) { return hn::Mul(g, GeluTanhGrad(d, v)); }, f32(x), f32(dy));
        break;
      case Activation::kRelu:
        Transform(begin, end, f32(dx), [d](VF v, VF g) { return hn::IfThenElseZero(hn::Gt(v, hn::Zero(d)), g); }, f32(x),
                  f32(dy));
        break;
    }
  });
}

void fill(KernelTable& t) {
  t.activation = activation;
  t.activation_backward = activation_backward;
}

}  // namespace fovea::HWY_NAMESPACE::activation_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_activation(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, activation_file); }
}  // namespace fovea
#endif
