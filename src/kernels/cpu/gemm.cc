// Source of the blocking: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; see run_gemm.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/jit.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::gemm_file {

using D = DF;
using V = VF;
constexpr D d;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(d));
constexpr int64_t kMaxWidth = 2 * kLanes;

// ---- portable tiles -------------------------------------------------------------------------------------------------

constexpr int kGroupRows = 4;

template <int kVectors, AOrder kOrder, int kRows>
void tile_rows(const GemmTile& t, int64_t row) {
  const int64_t a_stride = t.a_stride / 4;
  const int64_t i_step = kOrder == AOrder::kRows ? a_stride : 1, k_step = kOrder == AOrder::kRows ? 1 : a_stride;
  V acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) acc[i][j] = hn::LoadU(d, t.start + j * kLanes);
  const float* a = t.k == 0 ? t.a : t.a + row * i_step;  // A may be null where there is no k
  const float* b = t.b;
  for (int64_t k = 0; k < t.k; ++k, a += k_step, b += kVectors * kLanes) {
    V bv[kVectors];
    for (int j = 0; j < kVectors; ++j) bv[j] = hn::LoadU(d, b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const V av = hn::Set(d, a[i * i_step]);
      for (int j = 0; j < kVectors; ++j) acc[i][j] = hn::MulAdd(av, bv[j], acc[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float* c = t.c + (row + i) * (t.c_stride / 4);
    const float* addend = t.addend == nullptr ? nullptr : t.addend + (row + i) * (t.addend_stride / 4);
    if (t.columns == kVectors * kLanes) {
      for (int j = 0; j < kVectors; ++j) {
        if (addend != nullptr) acc[i][j] = hn::Add(acc[i][j], hn::LoadU(d, addend + j * kLanes));
        hn::StoreU(acc[i][j], d, c + j * kLanes);
      }
    } else {
      HWY_ALIGN float v[kMaxWidth];
      for (int j = 0; j < kVectors; ++j) hn::Store(acc[i][j], d, v + j * kLanes);
      for (int64_t j = 0; j < t.columns; ++j) c[j] = addend == nullptr ? v[j] : v[j] + addend[j];
    }
  }
}

template <int kVectors, AOrder kOrder>
void portable_tile(const GemmTile* t) {
  int64_t row = 0;
  for (; row + kGroupRows <= t->rows; row += kGroupRows) tile_rows<kVectors, kOrder, kGroupRows>(*t, row);
  switch (t->rows - row) {
    case 1: tile_rows<kVectors, kOrder, 1>(*t, row); break;
    case 2: tile_rows<kVectors, kOrder, 2>(*t, row); break;
    case 3: tile_rows<kVectors, kOrder, 3>(*t, row); break;
    default: break;
  }
}

GemmTileKernel portable_kernel(int /*rows*/, int vectors, AOrder order, TileType type, TileEnd end) {
  check(type == TileType::kF32 && end.activation == Activation::kNone && !end.bf16, "a portable tile multiplies floats and adds");
  if (order == AOrder::kRows) return vectors == 1 ? portable_tile<1, AOrder::kRows> : portable_tile<2, AOrder::kRows>;
  return vectors == 1 ? portable_tile<1, AOrder::kColumns> : portable_tile<2, AOrder::kColumns>;
}

constexpr Isa kIsa = kLanes == 16 ? Isa::kAvx512 : kLanes == 8 ? Isa::kAvx2 : Isa::kBaseline;

GemmTileKernel generated_kernel(int rows, int vectors, AOrder order, TileType type, TileEnd end) {
  const GemmTileKernel kernel = jit_gemm_kernel(kIsa, rows, vectors, order, type, end);
  return kernel != nullptr ? kernel : portable_kernel(rows, vectors, order, type, end);
}
bool generates(TileType type) { return jit_gemm_kernel(kIsa, 1, 1, AOrder::kRows, type) != nullptr; }
bool generated_ends(AOrder order, TileType type, TileEnd end) { return jit_gemm_kernel(kIsa, 1, 1, order, type, end) != nullptr; }
bool portable_has(TileType type) { return type == TileType::kF32; }
bool portable_ends(AOrder, TileType, TileEnd) { return false; }

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
    if (p.columns == p.width) {
      for (int64_t j = 0; j < p.width; j += kLanes) hn::StoreU(hn::LoadU(d, b + j), d, out + j);
    } else {
      std::memcpy(out, b, static_cast<size_t>(p.columns) * sizeof(float));
      std::fill(out + p.columns, out + p.width, 0.0f);
    }
  }
}

// Sixteen steps of four columns at a time: whole lines are read even where the rows of b share a cache set.
void pack_transposed(const GemmPack& p) {
  constexpr hn::FixedTag<float, 4> d4;
  constexpr hn::RepartitionToWide<hn::FixedTag<float, 4>> d2;
  constexpr int64_t kSteps = 16;
  const int64_t whole_columns = p.columns / 4 * 4;
  for (int64_t k0 = 0; k0 < p.k; k0 += kSteps) {
    const int64_t steps = std::min(kSteps, p.k - k0);
    for (int64_t j = 0; j < whole_columns; j += 4) {
      const float* b = p.b + j * p.b_stride + k0;
      float* out = p.out + k0 * p.width + j;
      int64_t k = 0;
      for (; k + 4 <= steps; k += 4) {
        const auto r0 = hn::LoadU(d4, b + k), r1 = hn::LoadU(d4, b + p.b_stride + k),
                   r2 = hn::LoadU(d4, b + 2 * p.b_stride + k), r3 = hn::LoadU(d4, b + 3 * p.b_stride + k);
        const auto lo01 = hn::BitCast(d2, hn::InterleaveLower(d4, r0, r1)), hi01 = hn::BitCast(d2, hn::InterleaveUpper(d4, r0, r1)),
                   lo23 = hn::BitCast(d2, hn::InterleaveLower(d4, r2, r3)), hi23 = hn::BitCast(d2, hn::InterleaveUpper(d4, r2, r3));
        hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, lo01, lo23)), d4, out + k * p.width);
        hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, lo01, lo23)), d4, out + (k + 1) * p.width);
        hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, hi01, hi23)), d4, out + (k + 2) * p.width);
        hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, hi01, hi23)), d4, out + (k + 3) * p.width);
      }
      for (; k < steps; ++k)
        for (int64_t c = 0; c < 4; ++c) out[k * p.width + c] = b[c * p.b_stride + k];
    }
    for (int64_t k = k0; k < k0 + steps; ++k)
      for (int64_t j = whole_columns; j < p.width; ++j)
        p.out[k * p.width + j] = j < p.columns ? p.b[j * p.b_stride + k] : 0.0f;
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
  if (p.form != OperandForm::kF32) return pack_converted(p);
  p.b_transposed ? pack_transposed(p) : pack_rows(p);
}

// ---- C --------------------------------------------------------------------------------------------------------------

template <class Act>
void finish_rows(const GemmFinish& f, const Act& act) {
  for (int64_t i = 0; i < f.rows; ++i) {
    const float* tile = f.tile + i * f.tile_stride;
    const int64_t row = f.c_rows == nullptr ? i : f.c_rows[i];
    float* pre = f.pre == nullptr ? nullptr : f.pre + i * f.pre_stride;
    float* c = row < 0 || f.c_bf16 ? nullptr : f.c + row * f.c_stride;
    uint16_t* c16 = row < 0 || !f.c_bf16 ? nullptr : reinterpret_cast<uint16_t*>(f.c) + row * f.c_stride;
    const float* plus = f.addend == nullptr || row < 0 ? nullptr : f.addend + row * f.addend_stride;
    const auto value = [&](int64_t j) HWY_ATTR {
      const V v = hn::LoadU(d, tile + j);
      if (f.row_scale == nullptr) return v;
      return hn::MulAdd(hn::Mul(v, hn::Set(d, f.row_scale[i])), hn::LoadU(d, f.column_scale + j), hn::LoadU(d, f.bias + j));
    };
    int64_t j = 0;
    for (; j + kLanes <= f.columns; j += kLanes) {
      const V v = value(j);
      if (pre != nullptr) hn::StoreU(v, d, pre + j);
      if (row < 0) continue;
      V y = act(v);
      if (plus != nullptr) y = hn::Add(y, hn::LoadU(d, plus + j));
      if (c16 != nullptr)
        convert_vector(y, c16 + j);
      else
        hn::StoreU(y, d, c + j);
    }
    if (j == f.columns) continue;
    const size_t tail = static_cast<size_t>(f.columns - j);
    const V v = value(j);
    if (pre != nullptr) StoreTail(v, d, pre + j, tail);
    if (row < 0) continue;
    V y = act(v);
    if (plus != nullptr) y = hn::Add(y, LoadTail(d, plus + j, tail));
    if (c16 == nullptr) {
      StoreTail(y, d, c + j, tail);
      continue;
    }
    HWY_ALIGN uint16_t part[kLanes];
    convert_vector(y, part);
    std::memcpy(c16 + j, part, tail * sizeof(uint16_t));
  }
}

void finish(const GemmFinish& f) {
  switch (f.activation) {
    case Activation::kNone: finish_rows(f, [](V v) HWY_ATTR { return v; }); break;
    case Activation::kGelu: finish_rows(f, [](V v) HWY_ATTR { return Gelu(d, v); }); break;
    case Activation::kGeluTanh: finish_rows(f, [](V v) HWY_ATTR { return GeluTanh(d, v); }); break;
    case Activation::kRelu:
      // Not Max: its treatment of NaN differs between instruction sets, and a NaN must stay visible.
      finish_rows(f, [](V v) HWY_ATTR { return hn::IfThenElse(hn::Lt(v, hn::Zero(d)), hn::Zero(d), v); });
      break;
  }
}

// ---- the table ------------------------------------------------------------------------------------------------------

constexpr int kTileRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 8;

template <GemmTileKernel (*kKernel)(int, int, AOrder, TileType, TileEnd), bool (*kHas)(TileType), bool (*kEnds)(AOrder, TileType, TileEnd)>
void fill_with(KernelTable& t) {
  static constexpr GemmBackend kBackend = {static_cast<int>(kLanes), kTileRows, kKernel, kHas, kEnds, stage, finish, pack};
  t.gemm = [](const GemmArgs& g, Context& ctx) { run_gemm(kBackend, g, ctx); };
  t.gemm_packed_bytes = [](ProductType type, int64_t k, int64_t n) { return gemm_packed_size(kBackend, type, k, n); };
  t.gemm_pack = [](ProductType type, int64_t k, int64_t n, const void* b, int64_t b_stride, bool b_transposed, void* packed, Context& ctx) {
    run_gemm_pack(kBackend, type, k, n, static_cast<const float*>(b), b_stride, b_transposed, static_cast<float*>(packed), ctx);
  };
}

void fill(KernelTable& t) { fill_with<generated_kernel, generates, generated_ends>(t); }

}  // namespace fovea::HWY_NAMESPACE::gemm_file

namespace fovea::HWY_NAMESPACE::gemm_portable_file {
void fill(KernelTable& t) { gemm_file::fill_with<gemm_file::portable_kernel, gemm_file::portable_has, gemm_file::portable_ends>(t); }
}  // namespace fovea::HWY_NAMESPACE::gemm_portable_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_gemm(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, gemm_file); }
void fill_gemm_portable(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, gemm_portable_file); }
}  // namespace fovea
#endif
