// Rows of A and panels of B in the forms that tiles multiply: copies, transposes, roundings and norms.
#if defined(FOVEA_GEMM_OPERANDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GEMM_OPERANDS_INL_H_
#undef FOVEA_GEMM_OPERANDS_INL_H_
#else
#define FOVEA_GEMM_OPERANDS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::gemm_operands {

namespace {

using D = DF;
using V = VF;
constexpr D d;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(d));
constexpr int64_t kMaxWidth = 2 * kLanes;

// ---- operands -------------------------------------------------------------------------------------------------------

using DU = hn::RebindToUnsigned<D>;
using DS = hn::RebindToSigned<D>;
constexpr float kLevels = 127;

// To the nearest bfloat16, ties to even, in the upper halves; a NaN stays one.
HWY_INLINE hn::Vec<DU> round_to_bf16(V v) {
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto nan = hn::Or(bits, hn::Set(du, 0x400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::Eq(v, v)), rounded, nan);
}

HWY_INLINE void convert_vector(V v, uint16_t* to) {
  const hn::Rebind<uint16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DS(), hn::ShiftRight<16>(round_to_bf16(v)))), d16, to);
}

// f(v, i) over k floats by vectors; what lies behind them counts as zeros.
template <class F>
HWY_INLINE void for_row(const float* x, int64_t k, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) f(hn::LoadU(d, x + i), i);
  if (i < k) f(LoadTail(d, x + i, static_cast<size_t>(k - i)), i);
}

// bfloat16 to floats; memory behind them is written up to the next whole vector.
void widen_row(const uint16_t* x, int64_t k, float* out) {
  const hn::Rebind<uint16_t, D> d16;
  const DU du;
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, x + i)))), d, out + i);
  for (; i < k; ++i) {
    const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

// A row of k floats in the operand's form. Memory behind it is written up to the next whole vector of the form. Returns the scale
// of integers: a row of zeros has scale 0, one that is not finite NaN, so that its products are.
float convert_row(OperandForm form, const float* x, int64_t k, float* out) {
  const DU du;
  const DS ds;
  if (form == OperandForm::kBF16) {
    for_row(x, k, [&](V v, int64_t i) HWY_ATTR { convert_vector(v, reinterpret_cast<uint16_t*>(out) + i); });
    return 1;
  }
  if (form == OperandForm::kBF16Float) {
    for_row(x, k, [&](V v, int64_t i) HWY_ATTR {
      hn::StoreU(hn::BitCast(d, hn::And(round_to_bf16(v), hn::Set(du, 0xffff0000u))), d, out + i);
    });
    return 1;
  }
  V most = hn::Zero(d);
  auto finite = hn::Eq(most, most);
  for_row(x, k, [&](V v, int64_t) HWY_ATTR {
    const V size = hn::Abs(v);
    finite = hn::And(finite, hn::Le(size, hn::Set(d, std::numeric_limits<float>::max())));
    most = hn::Max(most, size);
  });
  if (!hn::AllTrue(d, finite)) {
    std::memset(out, 0, static_cast<size_t>((k + elements_of_step(form) - 1) / elements_of_step(form)) * sizeof(float));
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float greatest = hn::GetLane(hn::MaxOfLanes(d, most));
  const V inverse = hn::Set(d, greatest > 0 ? kLevels / greatest : 0.0f);
  const auto integer = [&](V v) HWY_ATTR { return hn::NearestInt(hn::Mul(v, inverse)); };
  switch (form) {
    case OperandForm::kInt8Float:
      for_row(x, k, [&](V v, int64_t i) HWY_ATTR { hn::StoreU(hn::ConvertTo(d, integer(v)), d, out + i); });
      break;
    case OperandForm::kUint8: {
      const hn::Rebind<uint8_t, D> d8;
      for_row(x, k, [&](V v, int64_t i) HWY_ATTR {
        hn::StoreU(hn::DemoteTo(d8, hn::Add(integer(v), hn::Set(ds, 128))), d8, reinterpret_cast<uint8_t*>(out) + i);
      });
      break;
    }
    default: {
      const hn::Rebind<int8_t, D> d8;
      for_row(x, k, [&](V v, int64_t i) HWY_ATTR { hn::StoreU(hn::DemoteTo(d8, integer(v)), d8, reinterpret_cast<int8_t*>(out) + i); });
    }
  }
  return greatest / kLevels;
}

// ---- A --------------------------------------------------------------------------------------------------------------

void normalise_row(const GemmStage& s, int64_t source, const float* x, float* out) {
  const float mean = s.mean[source], rstd = s.rstd[source];
  const float *gamma = s.gamma, *beta = s.beta;
  const V m = hn::Set(d, mean), r = hn::Set(d, rstd);
  int64_t k = 0;
  for (; k + kLanes <= s.k; k += kLanes) {
    V v = hn::Mul(hn::Sub(hn::LoadU(d, x + k), m), r);
    if (gamma != nullptr) v = hn::Mul(v, hn::LoadU(d, gamma + s.k_begin + k));
    if (beta != nullptr) v = hn::Add(v, hn::LoadU(d, beta + s.k_begin + k));
    hn::StoreU(v, d, out + k);
  }
  for (; k < s.k; ++k) {
    float v = (x[k] - mean) * rstd;
    if (gamma != nullptr) v *= gamma[s.k_begin + k];
    if (beta != nullptr) v += beta[s.k_begin + k];
    out[k] = v;
  }
}

void stage(const GemmStage& s) {
  const int64_t steps = (s.k + elements_of_step(s.form) - 1) / elements_of_step(s.form);
  for (int64_t i = 0; i < s.rows; ++i) {
    float* out = s.out + i * s.out_stride;
    const int64_t source = s.index == nullptr ? s.first_row + i : s.index[s.first_row + i];
    if (source < 0) {
      std::memset(out, 0, static_cast<size_t>(steps) * sizeof(float));
      if (s.scale != nullptr) s.scale[i] = 0;
      continue;
    }
    if (s.a_bf16) {
      const uint16_t* x = reinterpret_cast<const uint16_t*>(s.a) + source * s.a_stride + s.k_begin;
      if (s.form == OperandForm::kBF16) {
        if (steps > 0) out[steps - 1] = 0;  // behind an odd last element
        std::memcpy(out, x, static_cast<size_t>(s.k) * sizeof(uint16_t));
        continue;
      }
      widen_row(x, s.k, s.row);
      const float scale = convert_row(s.form, s.row, s.k, out);
      if (s.scale != nullptr) s.scale[i] = scale;
      continue;
    }
    const float* x = s.a + source * s.a_stride + s.k_begin;
    if (s.form == OperandForm::kF32) {
      if (s.mean != nullptr)
        normalise_row(s, source, x, out);
      else
        std::memcpy(out, x, static_cast<size_t>(s.k) * sizeof(float));
      continue;
    }
    if (s.mean != nullptr) {
      normalise_row(s, source, x, s.row);
      x = s.row;
    }
    const float scale = convert_row(s.form, x, s.k, out);
    if (s.scale != nullptr) s.scale[i] = scale;
  }
}

// ---- B --------------------------------------------------------------------------------------------------------------

void pack_rows(const GemmPack& p) {
  for (int64_t k = 0; k < p.k; ++k) {
    const float* b = p.b + k * p.b_stride;
    float* out = p.out + k * p.width;
    if (p.columns == p.width && p.width <= kMaxWidth) {
      for (int64_t j = 0; j < p.width; j += kLanes) hn::StoreU(hn::LoadU(d, b + j), d, out + j);
    } else {
      std::memcpy(out, b, static_cast<size_t>(p.columns) * sizeof(float));
      std::fill(out + p.columns, out + p.width, 0.0f);
    }
  }
}

// Four rows of four columns each, in every 16 bytes, to columns.
HWY_INLINE void transpose_fours(V r0, V r1, V r2, V r3, float* out, int64_t stride) {
  constexpr hn::RepartitionToWide<D> d2;
  const auto lo01 = hn::BitCast(d2, hn::InterleaveLower(d, r0, r1)), hi01 = hn::BitCast(d2, hn::InterleaveUpper(d, r0, r1)),
             lo23 = hn::BitCast(d2, hn::InterleaveLower(d, r2, r3)), hi23 = hn::BitCast(d2, hn::InterleaveUpper(d, r2, r3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, lo01, lo23)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, lo01, lo23)), d, out + stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, hi01, hi23)), d, out + 2 * stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, hi01, hi23)), d, out + 3 * stride);
}

// Four steps of rows b, b + 4 stride, ...: as many as fill a vector.
template <class Tag>
HWY_INLINE hn::Vec<Tag> load_fours(Tag tag, const float* b, int64_t stride) {
  if constexpr (hn::MaxLanes(Tag()) == 4) {
    return hn::LoadU(tag, b);
  } else {
    constexpr hn::Half<Tag> half;
    return hn::Combine(tag, load_fours(half, b + static_cast<int64_t>(hn::MaxLanes(tag)) / 2 * stride, stride), load_fours(half, b, stride));
  }
}

// Sixteen steps of a vector of columns at a time: whole lines are read even where the rows of b share a cache set.
void pack_transposed(const GemmPack& p) {
  constexpr int64_t kSteps = 16;
  const int64_t whole_columns = p.columns / kLanes * kLanes;
  for (int64_t k0 = 0; k0 < p.k; k0 += kSteps) {
    const int64_t steps = std::min(kSteps, p.k - k0);
    for (int64_t j = 0; j < whole_columns; j += kLanes) {
      const float* b = p.b + j * p.b_stride + k0;
      float* out = p.out + k0 * p.width + j;
      int64_t k = 0;
      for (; k + 4 <= steps; k += 4)
        transpose_fours(load_fours(d, b + k, p.b_stride), load_fours(d, b + p.b_stride + k, p.b_stride),
                        load_fours(d, b + 2 * p.b_stride + k, p.b_stride), load_fours(d, b + 3 * p.b_stride + k, p.b_stride),
                        out + k * p.width, p.width);
      for (; k < steps; ++k)
        for (int64_t c = 0; c < kLanes; ++c) out[k * p.width + c] = b[c * p.b_stride + k];
    }
    for (int64_t k = k0; k < k0 + steps; ++k)
      for (int64_t j = whole_columns; j < p.width; ++j)
        p.out[k * p.width + j] = j < p.columns ? p.b[j * p.b_stride + k] : 0.0f;
  }
}

// Rows of b in bf16, two a step where the form has pairs.
void pack_bf16_rows(const GemmPack& p) {
  const DU du;
  const hn::Rebind<uint16_t, D> d16;
  const bool pairs = p.form == OperandForm::kBF16;
  const auto upper = hn::Set(du, 0xffff0000u);
  // Row k in the upper halves, lanes from j on; what lies behind b counts as zeros.
  const auto load = [&](int64_t k, int64_t j) HWY_ATTR {
    if (k >= p.k || j >= p.columns) return hn::Zero(du);
    const int64_t count = std::min(kLanes, p.columns - j);
    if (p.b_bf16) {
      const uint16_t* b = reinterpret_cast<const uint16_t*>(p.b) + k * p.b_stride + j;
      HWY_ALIGN uint16_t part[kLanes] = {};
      if (count < kLanes) std::memcpy(part, b, static_cast<size_t>(count) * sizeof(uint16_t));
      return hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, count < kLanes ? part : b)));
    }
    const float* b = p.b + k * p.b_stride + j;
    return hn::And(round_to_bf16(count < kLanes ? LoadTail(d, b, static_cast<size_t>(count)) : hn::LoadU(d, b)), upper);
  };
  float* out = p.out;
  for (int64_t k = 0; k < p.k; k += pairs ? 2 : 1, out += p.width)
    for (int64_t j = 0; j < p.width; j += kLanes) {
      const auto first = load(k, j);
      const auto step = pairs ? hn::Or(hn::ShiftRight<16>(first), load(k + 1, j)) : first;
      hn::StoreU(hn::BitCast(d, step), d, out + j);
    }
}

// Columns as rows in the operand's form, then like floats.
void pack_converted(const GemmPack& p) {
  const int64_t of_step = elements_of_step(p.form), steps = (p.k + of_step - 1) / of_step, stride = steps + kLanes;
  float *columns = p.columns_scratch, *column = columns + p.width * stride;
  for (int64_t j = 0; j < p.columns; ++j) {
    const float* b = p.b + j * p.b_stride;
    if (!p.b_transposed) {
      for (int64_t k = 0; k < p.k; ++k) column[k] = p.b[k * p.b_stride + j];
      b = column;
    }
    float* out = columns + j * stride;
    out[steps - 1] = 0;  // behind the last element
    const float scale = convert_row(p.form, b, p.k, out);
    if (p.column_scale == nullptr) continue;
    p.column_scale[j] = scale;
    int32_t sum = 0;
    if (p.form == OperandForm::kInt8)
      for (int64_t k = 0; k < p.k; ++k) sum += reinterpret_cast<const int8_t*>(out)[k];
    p.start[j] = -128 * sum;
  }
  GemmPack packed;
  packed.k = steps;
  packed.columns = p.columns;
  packed.width = p.width;
  packed.b = columns;
  packed.b_stride = stride;
  packed.out = p.out;
  pack_transposed(packed);
}

void pack(const GemmPack& p) {
  const bool bf16 = p.form == OperandForm::kBF16 || p.form == OperandForm::kBF16Float;
  if (bf16 && !p.b_transposed) return pack_bf16_rows(p);
  if (p.form != OperandForm::kF32) return pack_converted(p);
  p.b_transposed ? pack_transposed(p) : pack_rows(p);
}

void add_rows(const GemmPack& p) {
  constexpr int64_t kVectors = 4;
  const hn::Rebind<uint16_t, D> d16;
  const DU du;
  const auto load = [&](int64_t k, int64_t j) HWY_ATTR {
    if (!p.b_bf16) return hn::LoadU(d, p.b + k * p.b_stride + j);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p.b) + k * p.b_stride + j))));
  };
  int64_t j = 0;
  for (; j + kVectors * kLanes <= p.columns; j += kVectors * kLanes) {
    V s0 = load(0, j), s1 = load(0, j + kLanes), s2 = load(0, j + 2 * kLanes), s3 = load(0, j + 3 * kLanes);
    for (int64_t k = 1; k < p.k; ++k) {
      s0 = hn::Add(s0, load(k, j));
      s1 = hn::Add(s1, load(k, j + kLanes));
      s2 = hn::Add(s2, load(k, j + 2 * kLanes));
      s3 = hn::Add(s3, load(k, j + 3 * kLanes));
    }
    float* out = p.out + j;
    for (const V s : {s0, s1, s2, s3}) {
      hn::StoreU(hn::Add(hn::LoadU(d, out), s), d, out);
      out += kLanes;
    }
  }
  for (; j < p.columns; ++j) {
    float sum = 0;
    for (int64_t k = 0; k < p.k; ++k) {
      if (p.b_bf16) {
        const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(p.b)[k * p.b_stride + j]) << 16;
        float x;
        std::memcpy(&x, &bits, sizeof(x));
        sum += x;
      } else {
        sum += p.b[k * p.b_stride + j];
      }
    }
    p.out[j] += sum;
  }
}

}  // namespace

}  // namespace fovea::HWY_NAMESPACE::gemm_operands
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_GEMM_OPERANDS_INL_H_
