// Elementary functions on f32 vectors and the partial loads and stores of a row's tail, per instruction set. Included once
// per set by a kernel file (inside its foreach_target), after <hwy/highway.h>.
//
// Polynomials are minimax fits (Lawson's iteration) of the functions that their comments name. Contractions to a fused
// multiply-add are explicit, so the instruction sets differ in the last bits but each is reproducible.
#if defined(FOVEA_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_CPU_MATH_INL_H_
#undef FOVEA_KERNELS_CPU_MATH_INL_H_
#else
#define FOVEA_KERNELS_CPU_MATH_INL_H_
#endif

#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The widest f32 vector of this instruction set.
using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

// ---- tails ----------------------------------------------------------------------------------------------------------

// The first n < lanes elements at p, zeros above; nothing past them is read.
template <class D>
HWY_INLINE hn::Vec<D> LoadTail(D d, const float* p, size_t n) {
#if HWY_TARGET <= HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, n), d, p);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)] = {};
  for (size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#endif
}

// Stores the first n < lanes elements; nothing past them is touched.
template <class D>
HWY_INLINE void StoreTail(hn::Vec<D> v, D d, float* p, size_t n) {
#if HWY_TARGET <= HWY_AVX2
  hn::BlendedStore(v, hn::FirstN(d, n), d, p);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  for (size_t i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}

// ---- reductions -----------------------------------------------------------------------------------------------------

template <class D>
HWY_INLINE float ReduceSum(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
template <class D>
HWY_INLINE float ReduceMax(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

// ---- powers ---------------------------------------------------------------------------------------------------------

namespace detail {

// On x86 Min and Max give their second operand when one is NaN: with the bound first, NaN passes through.
template <class D>
HWY_INLINE hn::Vec<D> AtMost(D d, hn::Vec<D> v, float bound) {
  return hn::Min(hn::Set(d, bound), v);
}
template <class D>
HWY_INLINE hn::Vec<D> AtLeast(D d, hn::Vec<D> v, float bound) {
  return hn::Max(hn::Set(d, bound), v);
}

template <class D>
HWY_INLINE hn::Vec<D> Horner(D d, hn::Vec<D>, float c0) {
  return hn::Set(d, c0);
}
template <class D>
HWY_INLINE hn::Vec<D> Horner(D d, hn::Vec<D>, float c0, float) {
  return hn::Set(d, c0);
}
// Every second coefficient: c0 + z (c2 + z (c4 + ...)).
template <class D, class... More>
HWY_INLINE hn::Vec<D> Horner(D d, hn::Vec<D> z, float c0, float, float c2, More... more) {
  return hn::MulAdd(Horner(d, z, c2, more...), z, hn::Set(d, c0));
}
// c0 + c1 x + c2 x^2 + ..., even and odd powers apart: half the latency of Horner's scheme for one more product.
template <class D, class... More>
HWY_INLINE hn::Vec<D> Polynomial(D d, hn::Vec<D> x, float c0, float c1, More... more) {
  const auto z = hn::Mul(x, x);
  return hn::MulAdd(Horner(d, z, c1, more...), x, Horner(d, z, c0, c1, more...));
}

// 2^p for p in [-126, 0], relative error 1.3e-7 beside that of p.
template <class D>
HWY_INLINE hn::Vec<D> Exp2NonPositive(D d, hn::Vec<D> p) {
#if HWY_TARGET == HWY_AVX3
  const auto whole = hn::Round(p);
#else
  const hn::RebindToSigned<D> di;
  const auto n = hn::NearestInt(p);
  const auto whole = hn::ConvertTo(d, n);
#endif
  const auto f = hn::Sub(p, whole);
  const auto q =
      Polynomial(d, f, 1.00000012f, 0.693146944f, 0.240221202f, 0.0555071309f, 0.00967554096f, 0.00132764725f);
#if HWY_TARGET == HWY_AVX3
  return hn::Vec<D>{_mm512_scalef_ps(q.raw, whole.raw)};
#else
  return hn::Mul(q, hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127)))));
#endif
}

}  // namespace detail

// e^v: at most 2 ulp; results below 2^-125 are zero, above the largest float infinity; NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<D> Exp(D d, hn::Vec<D> v) {
  const auto x = detail::AtMost(d, detail::AtLeast(d, v, -87.5f), 89.0f);
  const auto t = hn::Mul(x, hn::Set(d, 1.44269504f));
#if HWY_TARGET == HWY_AVX3
  const auto whole = hn::Round(t);
#else
  const hn::RebindToSigned<D> di;
  const auto n = hn::NearestInt(t);
  const auto whole = hn::ConvertTo(d, n);
#endif
  // ln 2 in two parts; the first has 9 bits, so its product with `whole` is exact even without a fused multiply.
  auto r = hn::NegMulAdd(whole, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(whole, hn::Set(d, -2.12194440e-4f), r);
  const auto q =
      detail::Polynomial(d, r, 0.49999994f, 0.166665211f, 0.0416683927f, 0.00836874545f, 0.00138145359f);
  const auto p = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  const auto y = hn::Vec<D>{_mm512_scalef_ps(p.raw, whole.raw)};
  return hn::IfThenZeroElse(hn::Le(v, hn::Set(d, -87.5f)), y);
#else
  // 2^128 is no float: scale by half of it, then double. The field is 0 for 2^-126, which gives the zero wanted there.
  const auto half = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 126))));
  const auto y = hn::Mul(p, half);
  return hn::Add(y, y);
#endif
}

// tanh v: relative error below 3e-7.
template <class D>
HWY_INLINE hn::Vec<D> Tanh(D d, hn::Vec<D> v) {
  const auto a = hn::Abs(v);
  const auto z = hn::Mul(a, a);
  const auto one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f);
  const auto e = Exp(d, hn::Mul(a, two));
  const auto large = hn::Sub(one, hn::Div(two, hn::Add(e, one)));
  const auto q =
      detail::Polynomial(d, z, -0.333332807f, 0.133314416f, -0.0537397154f, 0.020639088f, -0.00570498826f);
  const auto small = hn::MulAdd(hn::Mul(a, z), q, a);
  return hn::CopySign(hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.625f)), small, large), v);
}

// erf v: relative error below 3e-7. Near zero v times a polynomial in v^2, elsewhere 1 - 2^P with P = log2 erfc.
template <class D>
HWY_INLINE hn::Vec<D> Erf(D d, hn::Vec<D> v) {
  const auto a = detail::AtMost(d, hn::Abs(v), 4.2f);
  const auto z = hn::Mul(a, a);
  const auto small = hn::Mul(a, detail::Polynomial(d, z, 1.12837911f, -0.37612626f, 0.112835854f, -0.0268538129f,
                                                   0.00518832915f, -0.000801020593f, 7.85390075e-05f));
  const auto p = detail::Polynomial(d, a, 0.000271272322f, -1.62963712f, -0.913543284f, -0.156414837f, 0.0363677628f,
                                    -0.00606587855f, 0.000636709679f, -3.12871853e-05f);
  const auto large = hn::Sub(hn::Set(d, 1.0f), detail::Exp2NonPositive(d, p));
  return hn::CopySign(hn::IfThenElse(hn::Lt(a, hn::Set(d, 1.0f)), small, large), v);
}

// ---- GELU -----------------------------------------------------------------------------------------------------------

// x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016, 1606.08415): absolute error below
// 1e-7 max(1, |x|), relative error of the negative tail below 1e-3 down to x = -9, zero (1e-18) beyond.
// With a = |x| and Q(a) = 1 - Phi(a): gelu = max(x, 0) - a Q(a), and log2 Q is smooth: a polynomial of degree 10 on [0, 9].
template <class D>
HWY_INLINE hn::Vec<D> Gelu(D d, hn::Vec<D> x) {
  const auto a = detail::AtMost(d, hn::Abs(x), 9.0f);
  const auto p =
      detail::Polynomial(d, a, -0.999998093f, -1.15113389f, -0.4590711f, -0.0527932644f, 0.00739611965f,
                         -0.000335709658f, -0.000127453794f, 3.43763713e-05f, -4.07623565e-06f, 2.46684237e-07f,
                         -6.13819839e-09f);
  return hn::NegMulAdd(a, detail::Exp2NonPositive(d, p), detail::AtLeast(d, x, 0.0f));
}

// d gelu / dx = Phi(x) + x phi(x), phi the normal density; absolute error below 3e-7.
// For x = -a it is g(a) = phi(a) (M(a) - a) with Mills' ratio M = Q / phi, for x = a it is 1 - g(a); M - a is a polynomial
// of degree 12, weighted by phi.
template <class D>
HWY_INLINE hn::Vec<D> GeluGrad(D d, hn::Vec<D> x) {
  const auto a = detail::AtMost(d, hn::Abs(x), 13.0f);
  const auto m = detail::Polynomial(d, a, 1.25331414f, -1.99999774f, 0.626618505f, -0.333074331f, 0.15576373f,
                                    -0.0648021847f, 0.0236118902f, -0.00722934399f, 0.00175426446f, -0.000315147365f,
                                    3.85689127e-05f, -2.82965857e-06f, 9.29792634e-08f);
  const auto phi = detail::Exp2NonPositive(
      d, hn::NegMulAdd(hn::Mul(a, a), hn::Set(d, 0.72134752f), hn::Set(d, -1.32574806f)));  // log2 of the density
  const auto g = hn::Mul(m, phi);
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), g, hn::Sub(hn::Set(d, 1.0f), g));
}

namespace detail {

constexpr float kTwoRootTwoOverPi = 1.59576912f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

// e^-2u for u = sqrt(2 / pi) (x + 0.044715 x^3); (1 + tanh u) / 2 = 1 / (1 + e^-2u).
template <class D>
HWY_INLINE hn::Vec<D> GeluTanhExp(D d, hn::Vec<D> x) {
  const auto inner = hn::MulAdd(hn::Mul(hn::Mul(x, x), x), hn::Set(d, kCubic), x);
  return Exp(d, hn::Mul(inner, hn::Set(d, -kTwoRootTwoOverPi)));
}

}  // namespace detail

// The tanh approximation 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), absolute error below 3e-7 max(1, |x|).
template <class D>
HWY_INLINE hn::Vec<D> GeluTanh(D d, hn::Vec<D> x) {
  const auto bounded = detail::AtLeast(d, x, -30.0f);  // zero long before; keeps -infinity out of the quotient
  return hn::Div(bounded, hn::Add(hn::Set(d, 1.0f), detail::GeluTanhExp(d, bounded)));
}

// Its derivative s + x s (1 - s) 2 u'(x), s = (1 + tanh u) / 2; absolute error below 3e-7.
// Taken at |x|, where 1 - s = e s loses nothing: s(-x) = 1 - s(x), and s (1 - s) is even.
template <class D>
HWY_INLINE hn::Vec<D> GeluTanhGrad(D d, hn::Vec<D> x) {
  const auto a = detail::AtMost(d, hn::Abs(x), 30.0f);
  const auto e = detail::GeluTanhExp(d, a);
  const auto one = hn::Set(d, 1.0f);
  const auto s = hn::Div(one, hn::Add(one, e));
  const auto other = hn::Mul(e, s);
  const auto slope = hn::MulAdd(hn::Mul(a, a), hn::Set(d, 3 * detail::kCubic * detail::kTwoRootTwoOverPi),
                                hn::Set(d, detail::kTwoRootTwoOverPi));
  const auto bend = hn::Mul(hn::Mul(a, slope), hn::Mul(s, other));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Sub(other, bend), hn::Add(s, bend));
}

// ---- SiLU and its like ----------------------------------------------------------------------------------------------

// x / (1 + e^(-slope x)): relative error below 5e-7.
template <class D>
HWY_INLINE hn::Vec<D> Swish(D d, hn::Vec<D> x, float slope) {
  const auto bounded = detail::AtLeast(d, x, -100.0f);  // zero before; keeps -infinity out of the quotient
  return hn::Div(bounded, hn::Add(hn::Set(d, 1.0f), Exp(d, hn::Mul(bounded, hn::Set(d, -slope)))));
}

// Its derivative s + u s (1 - s), u = slope x, s = 1 / (1 + e^-u), taken at |u| as that of the tanh GELU; absolute error below 3e-7.
template <class D>
HWY_INLINE hn::Vec<D> SwishGrad(D d, hn::Vec<D> x, float slope) {
  const auto u = hn::Mul(x, hn::Set(d, slope));
  const auto a = detail::AtMost(d, hn::Abs(u), 90.0f);
  const auto e = Exp(d, hn::Neg(a));
  const auto one = hn::Set(d, 1.0f);
  const auto s = hn::Div(one, hn::Add(one, e));
  const auto other = hn::Mul(e, s);
  const auto bend = hn::Mul(a, hn::Mul(s, other));
  return hn::IfThenElse(hn::Lt(u, hn::Zero(d)), hn::Sub(other, bend), hn::Add(s, bend));
}

constexpr float kQuickGeluSlope = 1.702f;

}  // namespace fovea::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_KERNELS_CPU_MATH_INL_H_
