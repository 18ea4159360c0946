#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cosine.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/loops-inl.h"
#include "kernels/cpu/row_layout.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::cosine_file {

// Calls f(rows from `row` on, as a compile-time number) over [0, rows): the reductions of kSumRows short rows share
// instructions. A row's bits do not depend on its place.
template <class F>
HWY_INLINE void for_row_groups(int64_t rows, int64_t channels, Context& context, F&& f) {
  parallel_for(context, (rows + kSumRows - 1) / kSumRows, kSumRows * channels, [&](int64_t begin, int64_t end) {
    int64_t row = begin * kSumRows;
    const int64_t last = std::min(end * kSumRows, rows);
    for (; row + kSumRows <= last; row += kSumRows) f.template operator()<kSumRows>(row);
    for (; row < last; ++row) f.template operator()<1>(row);
  });
}

// A vector of a row in floats or bfloat16, or its first n < lanes elements (zeros above), and back.
HWY_INLINE VF load(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE VF load(const uint16_t* p) { return LoadBf16(p); }
HWY_INLINE VF load(const float* p, size_t n) { return LoadTail(DF(), p, n); }
HWY_INLINE VF load(const uint16_t* p, size_t n) { return LoadBf16Tail(p, n); }
HWY_INLINE void store(VF v, float* p) { hn::StoreU(v, DF(), p); }
HWY_INLINE void store(VF v, uint16_t* p) { StoreBf16(v, p); }
HWY_INLINE void store(VF v, float* p, size_t n) { StoreTail(v, DF(), p, n); }
HWY_INLINE void store(VF v, uint16_t* p, size_t n) { StoreBf16Tail(v, p, n); }

// Two vectors of bfloat16 as floats, the even elements and the odd ones, and back, rounded to even. What is not a number stays so: it comes from
// bfloat16.
using DHalf = hn::Repartition<uint16_t, DF>;
HWY_INLINE void load_two(const uint16_t* p, VF& even, VF& odd) {
  const auto both = hn::BitCast(DU(), hn::LoadU(DHalf(), p));
  even = hn::BitCast(DF(), hn::ShiftLeft<16>(both));
  odd = hn::BitCast(DF(), hn::And(both, hn::Set(DU(), 0xffff0000u)));
}
HWY_INLINE void store_two(VF even, VF odd, uint16_t* p) {
  const auto rounded = [](VF v) HWY_ATTR {
    const auto bits = hn::BitCast(DU(), v);
    return hn::Add(hn::Add(bits, hn::Set(DU(), 0x7fffu)), hn::And(hn::ShiftRight<16>(bits), hn::Set(DU(), 1u)));
  };
  const auto both = hn::Or(hn::ShiftRight<16>(rounded(even)), hn::And(rounded(odd), hn::Set(DU(), 0xffff0000u)));
  hn::StoreU(hn::BitCast(DHalf(), both), DHalf(), p);
}

HWY_INLINE void load_two(const float* p, VF& a, VF& b) {
  a = load(p);
  b = load(p + kLanes);
}
HWY_INLINE void store_two(VF a, VF b, float* p) {
  store(a, p);
  store(b, p + kLanes);
}

// X: float, or uint16_t for bfloat16.
template <class X, int R>
void unit_rows_from(const UnitRowsArgs& a, int64_t row) {
  const D4 d4;
  int64_t from[R], to[R];
  row_offsets(a.x_rows, row, from);
  row_offsets(a.y_rows, row, to);
  const X* x = static_cast<const X*>(a.x);
  X* y = static_cast<X*>(a.y);
  const int64_t pairs = a.channels / (2 * kLanes) * 2 * kLanes, whole = a.channels / kLanes * kLanes;
  const auto rest = static_cast<size_t>(a.channels - whole);
  VF square[R];
  for (int r = 0; r < R; ++r) {
    square[r] = hn::Zero(DF());
    for (int64_t c = 0; c < pairs; c += 2 * kLanes) {
      VF u, v;
      load_two(x + from[r] + c, u, v);
      square[r] = hn::MulAdd(v, v, hn::MulAdd(u, u, square[r]));
    }
    for (int64_t c = pairs; c < whole; c += kLanes) {
      const VF v = load(x + from[r] + c);
      square[r] = hn::MulAdd(v, v, square[r]);
    }
    if (rest == 0) continue;
    const VF v = load(x + from[r] + whole, rest);
    square[r] = hn::MulAdd(v, v, square[r]);
  }
  HWY_ALIGN float norm[kSumRows], inverse[kSumRows];
  const V4 n = hn::Max(hn::Set(d4, static_cast<float>(a.epsilon)), hn::Sqrt(SumsOf(square)));  // the bound first: NaN passes
  hn::Store(n, d4, norm);
  hn::Store(hn::Div(hn::Set(d4, 1.0f), n), d4, inverse);
  for (int r = 0; r < R; ++r) {
    if (a.norm) f32(a.norm)[row + r] = norm[r];
    const VF scale = hn::Set(DF(), inverse[r]);
    for (int64_t c = 0; c < pairs; c += 2 * kLanes) {
      VF u, v;
      load_two(x + from[r] + c, u, v);
      store_two(hn::Mul(u, scale), hn::Mul(v, scale), y + to[r] + c);
    }
    for (int64_t c = pairs; c < whole; c += kLanes) store(hn::Mul(load(x + from[r] + c), scale), y + to[r] + c);
    if (rest > 0) store(hn::Mul(load(x + from[r] + whole, rest), scale), y + to[r] + whole, rest);
  }
}

// The same for groups of rows [begin, end) that are two vectors long, as heads mostly are: they stay in registers.
template <class X>
void short_unit_rows(const UnitRowsArgs& a, int64_t begin, int64_t end) {
  const D4 d4;
  const X* x = static_cast<const X*>(a.x);
  X* y = static_cast<X*>(a.y);
  for (int64_t row = begin; row < end; row += kSumRows) {
    int64_t from[kSumRows], to[kSumRows];
    row_offsets(a.x_rows, row, from);
    row_offsets(a.y_rows, row, to);
    VF u[kSumRows], v[kSumRows], square[kSumRows];
    for (int r = 0; r < kSumRows; ++r) {
      load_two(x + from[r], u[r], v[r]);
      square[r] = hn::MulAdd(v[r], v[r], hn::Mul(u[r], u[r]));
    }
    HWY_ALIGN float inverse[kSumRows];
    const V4 n = hn::Max(hn::Set(d4, static_cast<float>(a.epsilon)), hn::Sqrt(SumsOf(square)));
    if (a.norm) hn::StoreU(n, d4, f32(a.norm) + row);
    hn::Store(hn::Div(hn::Set(d4, 1.0f), n), d4, inverse);
    for (int r = 0; r < kSumRows; ++r) {
      const VF scale = hn::Set(DF(), inverse[r]);
      store_two(hn::Mul(u[r], scale), hn::Mul(v[r], scale), y + to[r]);
    }
  }
}

template <class X>
void unit_rows_of(const UnitRowsArgs& a, Context& context) {
  const int64_t rows = a.x_rows.rows(), groups = rows / kSumRows;
  if (a.channels != 2 * kLanes) return for_row_groups(rows, a.channels, context, [&a]<int R>(int64_t row) { unit_rows_from<X, R>(a, row); });
  parallel_for(context, groups, kSumRows * a.channels, [&](int64_t begin, int64_t end) { short_unit_rows<X>(a, begin * kSumRows, end * kSumRows); });
  for (int64_t row = groups * kSumRows; row < rows; ++row) unit_rows_from<X, 1>(a, row);
}

void unit_rows(const UnitRowsArgs& a, Context& context) { a.bf16 ? unit_rows_of<uint16_t>(a, context) : unit_rows_of<float>(a, context); }

// With y = x / n: dx = (dy - y <y, dy>) / n where n = |x|, dx = dy / n where n = epsilon, a constant.
void unit_rows_backward(const UnitRowsBackwardArgs& a, Context& context) {
  const float epsilon = static_cast<float>(a.epsilon);
  for_row_groups(a.y_rows.rows(), a.channels, context, [&]<int R>(int64_t row) {
    const DF d;
    const D4 d4;
    const float *y[R], *dy[R];
    VF product[R];
    for (int r = 0; r < R; ++r) {
      y[r] = f32(a.y) + row_offset(a.y_rows, row + r);
      dy[r] = f32(a.dy) + row_offset(a.dy_rows, row + r);
      product[r] = hn::Zero(d);
    }
    ForVectors(0, a.channels, [&](int64_t, auto load, auto) {
      for (int r = 0; r < R; ++r) product[r] = hn::MulAdd(load(y[r]), load(dy[r]), product[r]);
    });
    HWY_ALIGN float dot[kSumRows];
    hn::Store(SumsOf(product), d4, dot);
    for (int r = 0; r < R; ++r) {
      const float norm = f32(a.norm)[row + r];
      const VF along = hn::Set(d, norm > epsilon ? dot[r] : 0.0f), scale = hn::Set(d, 1.0f / norm);
      float* dx = f32(a.dx) + row_offset(a.dx_rows, row + r);
      if (a.accumulate_dx)
        Transform(0, a.channels, dx,
                  [along, scale](VF u, VF g, VF sum) { return hn::MulAdd(hn::NegMulAdd(u, along, g), scale, sum); }, y[r], dy[r],
                  static_cast<const float*>(dx));
      else
        Transform(0, a.channels, dx, [along, scale](VF u, VF g) { return hn::Mul(hn::NegMulAdd(u, along, g), scale); }, y[r], dy[r]);
    }
  });
}

// A value for each head: too few for vectors or threads.
void clamped_exp(int64_t count, double limit, const void* x, void* y, Context&) {
  for (int64_t i = 0; i < count; ++i)
    f32(y)[i] = static_cast<float>(std::exp(static_cast<double>(std::min(f32(x)[i], static_cast<float>(limit)))));
}

// dx += dy y where x <= limit, nothing above.
void clamped_exp_backward(int64_t count, double limit, const void* x, const void* y, const void* dy, void* dx, Context&) {
  for (int64_t i = 0; i < count; ++i)
    if (f32(x)[i] <= static_cast<float>(limit)) f32(dx)[i] += f32(dy)[i] * f32(y)[i];
}

void scaled_sigmoid(int64_t count, double scale, const void* x, void* y, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    const DF d;
    const VF factor = hn::Set(d, static_cast<float>(scale)), one = hn::Set(d, 1.0f);
    Transform(begin, end, f32(y), [=](VF v) { return hn::Div(factor, hn::Add(one, Exp(d, hn::Neg(v)))); }, f32(x));
  });
}

// dx = dy scale e / (1 + e)^2, e = exp(-|x|)
void scaled_sigmoid_backward(int64_t count, double scale, const void* x, const void* dy, void* dx, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    const DF d;
    const VF factor = hn::Set(d, static_cast<float>(scale)), one = hn::Set(d, 1.0f);
    Transform(begin, end, f32(dx),
              [=](VF v, VF g) {
                const VF e = Exp(d, hn::Neg(hn::Abs(v)));
                const VF whole = hn::Add(one, e);
                return hn::Div(hn::Mul(hn::Mul(g, factor), e), hn::Mul(whole, whole));
              },
              f32(x), f32(dy));
  });
}

void fill(KernelTable& t) {
  t.unit_rows = unit_rows;
  t.unit_rows_backward = unit_rows_backward;
  t.clamped_exp = clamped_exp;
  t.clamped_exp_backward = clamped_exp_backward;
  t.scaled_sigmoid = scaled_sigmoid;
  t.scaled_sigmoid_backward = scaled_sigmoid_backward;
}

}  // namespace fovea::HWY_NAMESPACE::cosine_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_cosine(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, cosine_file); }
}  // namespace fovea
#endif
