#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::activation_file {

// Of each activation: its value, and its backward dy act'(x).
struct None {
  static HWY_INLINE VF Value(DF, VF v) { return v; }
  static HWY_INLINE VF Backward(DF, VF, VF g) { return g; }
};
struct ErfGelu {
  static HWY_INLINE VF Value(DF d, VF v) { return Gelu(d, v); }
  static HWY_INLINE VF Backward(DF d, VF v, VF g) { return hn::Mul(g, GeluGrad(d, v)); }
};
struct TanhGelu {
  static HWY_INLINE VF Value(DF d, VF v) { return GeluTanh(d, v); }
  static HWY_INLINE VF Backward(DF d, VF v, VF g) { return hn::Mul(g, GeluTanhGrad(d, v)); }
};
struct Relu {
  static HWY_INLINE VF Value(DF d, VF v) { return hn::Max(hn::Zero(d), v); }  // zero first: NaN passes
  static HWY_INLINE VF Backward(DF d, VF v, VF g) { return hn::IfThenElseZero(hn::Gt(v, hn::Zero(d)), g); }
};
struct QuickGelu {
  static HWY_INLINE VF Value(DF d, VF v) { return Swish(d, v, kQuickGeluSlope); }
  static HWY_INLINE VF Backward(DF d, VF v, VF g) { return hn::Mul(g, SwishGrad(d, v, kQuickGeluSlope)); }
};
struct Silu {
  static HWY_INLINE VF Value(DF d, VF v) { return Swish(d, v, 1.0f); }
  static HWY_INLINE VF Backward(DF d, VF v, VF g) { return hn::Mul(g, SwishGrad(d, v, 1.0f)); }
};
struct HyperbolicTangent {
  static HWY_INLINE VF Value(DF d, VF v) { return Tanh(d, v); }
  static HWY_INLINE VF Backward(DF d, VF v, VF g) {
    const VF t = Tanh(d, v);
    return hn::Mul(g, hn::NegMulAdd(t, t, hn::Set(d, 1.0f)));
  }
};

// Calls f with the activation of this kind.
template <class F>
void with(Activation kind, F&& f) {
  switch (kind) {
    case Activation::kNone: return f(None());
    case Activation::kGelu: return f(ErfGelu());
    case Activation::kGeluTanh: return f(TanhGelu());
    case Activation::kRelu: return f(Relu());
    case Activation::kQuickGelu: return f(QuickGelu());
    case Activation::kSilu: return f(Silu());
    case Activation::kTanh: return f(HyperbolicTangent());
  }
}

void activation(Activation kind, int64_t count, const void* x, void* y, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    with(kind, [&](auto act) {
      const DF d;
      Transform(begin, end, f32(y), [d, act](VF v) { return act.Value(d, v); }, f32(x));
    });
  });
}

// dx = dy act'(x)
void activation_backward(Activation kind, int64_t count, const void* x, const void* dy, void* dx, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    with(kind, [&](auto act) {
      const DF d;
      Transform(begin, end, f32(dx), [d, act](VF v, VF g) { return act.Backward(d, v, g); }, f32(x), f32(dy));
    });
  });
}

void gate(Activation kind, int64_t rows, int64_t columns, const void* x, void* y, Context& context) {
  parallel_for(context, rows, columns, [&](int64_t begin, int64_t end) {
    with(kind, [&](auto act) {
      const DF d;
      for (int64_t r = begin; r < end; ++r) {
        const float* a = f32(x) + 2 * r * columns;
        Transform(0, columns, f32(y) + r * columns, [d, act](VF v, VF b) { return hn::Mul(act.Value(d, v), b); }, a, a + columns);
      }
    });
  });
}

// da = dy b act'(a), db = dy act(a)
void gate_backward(Activation kind, int64_t rows, int64_t columns, const void* x, const void* dy, void* dx, Context& context) {
  parallel_for(context, rows, columns, [&](int64_t begin, int64_t end) {
    with(kind, [&](auto act) {
      const DF d;
      for (int64_t r = begin; r < end; ++r) {
        const float *a = f32(x) + 2 * r * columns, *b = a + columns, *g = f32(dy) + r * columns;
        float* da = f32(dx) + 2 * r * columns;
        ForVectors(0, columns, [&](int64_t, auto load, auto store) {
          const VF v = load(a), up = load(g);
          store(act.Backward(d, v, hn::Mul(up, load(b))), da);
          store(hn::Mul(up, act.Value(d, v)), da + columns);
        });
      }
    });
  });
}

void fill(KernelTable& t) {
  t.activation = activation;
  t.activation_backward = activation_backward;
  t.gate = gate;
  t.gate_backward = gate_backward;
}

}  // namespace fovea::HWY_NAMESPACE::activation_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_activation(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, activation_file); }
}  // namespace fovea
#endif
