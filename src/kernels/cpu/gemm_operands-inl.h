// Rows of A and panels of B in the forms that tiles multiply: copies, transposes, roundings and norms.
#if defined(FOVEA_GEMM_OPERANDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GEMM_OPERANDS_INL_H_
#undef FOVEA_GEMM_OPERANDS_INL_H_
#else
#define FOVEA_GEMM_OPERANDS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/gemm_bf16.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/native_rows.h"
#include "kernels/cpu/row_statistics-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::gemm_operands {

namespace {

using D = DF;
using V = VF;
constexpr D d;
constexpr int64_t kMaxWidth = 2 * kLanes;

// ---- operands -------------------------------------------------------------------------------------------------------

using DS = hn::RebindToSigned<D>;

// A row as it stands, or normalised on the way: vectors of its elements; what lies behind its end counts as zeros. Cheap ones are read twice
// rather than kept.
struct PlainRow {
  static constexpr bool kCheap = true;
  const float* x;
  HWY_INLINE V load(int64_t i) const { return hn::LoadU(d, x + i); }
  HWY_INLINE V load_tail(int64_t i, size_t n) const { return LoadTail(d, x + i, n); }
};
struct Bf16Row {
  static constexpr bool kCheap = true;
  const uint16_t* x;
  HWY_INLINE V load(int64_t i) const { return LoadBf16(x + i); }
  HWY_INLINE V load_tail(int64_t i, size_t n) const { return LoadBf16Tail(x + i, n); }
};
struct NormalisedRow {
  static constexpr bool kCheap = false;
  const float *x, *gamma, *beta;
  V mean, rstd;
  HWY_INLINE V load(int64_t i) const { return normalised(hn::LoadU(d, x + i), hn::LoadU(d, gamma + i), hn::LoadU(d, beta + i)); }
  HWY_INLINE V load_tail(int64_t i, size_t n) const {
    return hn::IfThenElseZero(hn::FirstN(d, n), normalised(LoadTail(d, x + i, n), LoadTail(d, gamma + i, n), LoadTail(d, beta + i, n)));
  }

 private:
  HWY_INLINE V normalised(V v, V g, V b) const { return hn::MulAdd(hn::Mul(hn::Sub(v, mean), rstd), g, b); }
};

// f(v, i) over k floats by vectors.
template <class Row, class F>
HWY_INLINE void for_row(const Row& row, int64_t k, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) f(row.load(i), i);
  if (i < k) f(row.load_tail(i, static_cast<size_t>(k - i)), i);
}

// A row of k floats in the operand's form; none of bfloat16 in pairs of bfloat16, which it has already, and none that
// stage_native_rows makes. Memory behind it is written up to the next whole vector of the form, and `scratch` (k up to
// the next whole vector) of rows that are kept. Returns the scale of integers: a row of zeros has scale 0, one that is not finite NaN, so that its products
// are.
template <class Row>
HWY_INLINE float convert_row(OperandForm form, const Row& row, int64_t k, float* out, float* scratch) {
  const DU du;
  if (form == OperandForm::kF32) {
    for_row(row, k, [&](V v, int64_t i) HWY_ATTR { hn::StoreU(v, d, out + i); });
    return 1;
  }
  if (form == OperandForm::kBF16) {  // asked for where the processor multiplies such numbers
    if constexpr (std::is_same_v<Row, PlainRow>) round_row_natively(row.x, k, out);
    return 1;
  }
  if (form == OperandForm::kBF16Float) {
    for_row(row, k, [&](V v, int64_t i) HWY_ATTR { hn::StoreU(RoundedToBf16(v), d, out + i); });
    return 1;
  }
  auto most = hn::Zero(du);
  for_row(row, k, [&](V v, int64_t i) HWY_ATTR {
    most = hn::Max(most, hn::BitCast(du, hn::Abs(v)));
    if constexpr (!Row::kCheap) hn::StoreU(v, d, scratch + i);
  });
  const Levels levels = levels_of(hn::GetLane(hn::MaxOfLanes(du, most)));
  if (std::isnan(levels.scale)) {
    std::memset(out, 0, static_cast<size_t>((k + elements_of_step(form) - 1) / elements_of_step(form)) * sizeof(float));
    return levels.scale;
  }
  const V inverse = hn::Set(d, levels.inverse);
  const hn::Rebind<uint8_t, D> d8;
  const bool floats = form == OperandForm::kInt8Float;
  const auto round = [&](V v, int64_t i) HWY_ATTR {
    const auto integer = hn::NearestInt(hn::Mul(v, inverse));
    if (floats)
      hn::StoreU(hn::ConvertTo(d, integer), d, out + i);
    else
      hn::StoreU(hn::TruncateTo(d8, hn::BitCast(du, integer)), d8, reinterpret_cast<uint8_t*>(out) + i);
  };
  if constexpr (Row::kCheap)
    for_row(row, k, round);
  else
    for_row(PlainRow{scratch}, k, round);
  return levels.scale;
}

// ---- A --------------------------------------------------------------------------------------------------------------

// R rows of one block, from row i of it on.
template <int R>
HWY_INLINE void stage_rows(const GemmStage& s, int64_t i) {
  const int64_t steps = (s.k + elements_of_step(s.form) - 1) / elements_of_step(s.form);
  int64_t source[R];
  for (int r = 0; r < R; ++r) source[r] = s.index == nullptr ? s.first_row + i + r : s.index[s.first_row + i + r];
  HWY_ALIGN float mean[kSumRows], rstd[kSumRows];
  if (s.gamma != nullptr && s.mean == nullptr) {
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = s.a + std::max<int64_t>(source[r], 0) * s.a_stride;
    RowStatistics(x, s.row_k, s.epsilon, mean, rstd);
  } else if (s.gamma != nullptr) {
    for (int r = 0; r < R; ++r) {
      mean[r] = s.mean[std::max<int64_t>(source[r], 0)];
      rstd[r] = s.rstd[std::max<int64_t>(source[r], 0)];
    }
  }
  for (int r = 0; r < R; ++r) {
    float* out = s.out + (i + r) * s.out_stride;
    float scale = 0;
    if (source[r] < 0) {
      std::memset(out, 0, static_cast<size_t>(steps) * sizeof(float));
    } else if (s.a_uint8) {
      const uint8_t* x = reinterpret_cast<const uint8_t*>(s.a) + source[r] * s.a_stride + s.k_begin;
      scale = s.a_scale[source[r]];
      if (s.form == OperandForm::kUint8) {
        if (steps > 0) out[steps - 1] = 0;
        std::memcpy(out, x, static_cast<size_t>(s.k));
      } else {
        for (int64_t k = 0; k < s.k; ++k) out[k] = static_cast<float>(x[k] - 128);
      }
    } else if (s.a_bf16) {
      const uint16_t* x = reinterpret_cast<const uint16_t*>(s.a) + source[r] * s.a_stride + s.k_begin;
      if (s.form == OperandForm::kBF16) {
        if (steps > 0) out[steps - 1] = 0;  // behind an odd last element
        std::memcpy(out, x, static_cast<size_t>(s.k) * sizeof(uint16_t));
      } else {
        scale = convert_row(s.form, Bf16Row{x}, s.k, out, s.row);
      }
    } else {
      const float* x = s.a + source[r] * s.a_stride + s.k_begin;
      if (s.gamma != nullptr)
        scale = convert_row(s.form, NormalisedRow{x, s.gamma + s.k_begin, s.beta + s.k_begin, hn::Set(d, mean[r]), hn::Set(d, rstd[r])}, s.k, out, s.row);
      else
        scale = convert_row(s.form, PlainRow{x}, s.k, out, s.row);
    }
    if (s.scale != nullptr) s.scale[i + r] = scale;
  }
}

void stage(const GemmStage& s) {
  // Bytes and pairs of bfloat16 are forms of processors with such vectors, which this code may not have been compiled for.
  const bool bytes = s.form == OperandForm::kUint8, wide = bytes || s.form == OperandForm::kBF16 || (s.form == OperandForm::kF32 && kLanes == 16);
  if (s.gamma != nullptr ? wide : bytes && !s.a_uint8) return stage_native_rows(s);
  int64_t i = 0;
  for (; i + kSumRows <= s.rows; i += kSumRows) stage_rows<kSumRows>(s, i);
  for (; i < s.rows; ++i) stage_rows<1>(s, i);
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

// Rows of b rounded to bf16, as floats.
void pack_bf16_rows(const GemmPack& p) {
  // Lanes of row k from j on; what lies behind b counts as zeros.
  const auto load = [&](int64_t k, int64_t j) HWY_ATTR {
    if (j >= p.columns) return hn::Zero(d);
    const size_t count = static_cast<size_t>(std::min(kLanes, p.columns - j));
    const bool whole = j + kLanes <= p.columns;
    if (p.b_bf16) {
      const uint16_t* b = reinterpret_cast<const uint16_t*>(p.b) + k * p.b_stride + j;
      return whole ? LoadBf16(b) : LoadBf16Tail(b, count);
    }
    const float* b = p.b + k * p.b_stride + j;
    return RoundedToBf16(whole ? hn::LoadU(d, b) : LoadTail(d, b, count));
  };
  float* out = p.out;
  for (int64_t k = 0; k < p.k; ++k, out += p.width)
    for (int64_t j = 0; j < p.width; j += kLanes) hn::StoreU(load(k, j), d, out + j);
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
    const float scale = convert_row(p.form, PlainRow{b}, p.k, out, nullptr);
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
  if (p.form == OperandForm::kBF16 && !p.b_transposed) return pack_rows_natively(p);
  if (p.form == OperandForm::kBF16Float && !p.b_transposed) return pack_bf16_rows(p);
  if (p.form != OperandForm::kF32) return pack_converted(p);
  p.b_transposed ? pack_transposed(p) : pack_rows(p);
}

void add_rows(const GemmPack& p) {
  constexpr int64_t kVectors = 4;
  const auto load = [&](int64_t k, int64_t j) HWY_ATTR {
    if (!p.b_bf16) return hn::LoadU(d, p.b + k * p.b_stride + j);
    return LoadBf16(reinterpret_cast<const uint16_t*>(p.b) + k * p.b_stride + j);
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
    float* out = p.sums + j;
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
    p.sums[j] += sum;
  }
}

}  // namespace

}  // namespace fovea::HWY_NAMESPACE::gemm_operands
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_GEMM_OPERANDS_INL_H_
