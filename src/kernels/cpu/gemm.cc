// Source of the blocking: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; see run_gemm.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_operands-inl.h"
#include "kernels/cpu/jit.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::gemm_file {

using namespace gemm_operands;  // NOLINT: one kernel, two files

// ---- portable tiles -------------------------------------------------------------------------------------------------

constexpr int kGroupRows = 4;

template <int kVectors, AOrder kOrder, int kRows>
void tile_rows(const GemmTile& t, int64_t row) {
  const int64_t a_stride = t.a_stride / 4;
  const int64_t i_step = kOrder == AOrder::kRows ? a_stride : 1, k_step = kOrder == AOrder::kRows ? 1 : a_stride;
  constexpr bool kRuns = sums_in_runs(kOrder, TileType::kF32);
  V acc[kRows][kVectors];
  V kept[kRows][kVectors];  // the start and the runs that are finished
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) {
      kept[i][j] = hn::LoadU(d, t.start + j * kLanes);
      acc[i][j] = kRuns ? hn::Zero(d) : kept[i][j];
    }
  const float* a = t.k == 0 ? t.a : t.a + row * i_step;  // A may be null where there is no k
  const float* b = t.b;
  int64_t run_end = t.run;
  for (int64_t k = 0; k < t.k; ++k, a += k_step, b += kVectors * kLanes) {
    if (kRuns && k == run_end) {
      run_end += t.run;
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kVectors; ++j) {
          kept[i][j] = hn::Add(acc[i][j], kept[i][j]);
          acc[i][j] = hn::Zero(d);
        }
    }
    V bv[kVectors];
    for (int j = 0; j < kVectors; ++j) bv[j] = hn::LoadU(d, b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const V av = hn::Set(d, a[i * i_step]);
      for (int j = 0; j < kVectors; ++j) acc[i][j] = hn::MulAdd(av, bv[j], acc[i][j]);
    }
  }
  if (kRuns)
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j) acc[i][j] = hn::Add(acc[i][j], kept[i][j]);
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
        StoreBf16(y, c16 + j);
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
    StoreBf16Tail(y, c16 + j, tail);
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
    case Activation::kQuickGelu: finish_rows(f, [](V v) HWY_ATTR { return Swish(d, v, kQuickGeluSlope); }); break;
    case Activation::kSilu: finish_rows(f, [](V v) HWY_ATTR { return Swish(d, v, 1.0f); }); break;
    case Activation::kTanh: finish_rows(f, [](V v) HWY_ATTR { return Tanh(d, v); }); break;
  }
}

// ---- the table ------------------------------------------------------------------------------------------------------

constexpr int kTileRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 8;

template <GemmTileKernel (*kKernel)(int, int, AOrder, TileType, TileEnd), bool (*kHas)(TileType), bool (*kEnds)(AOrder, TileType, TileEnd)>
void fill_with(KernelTable& t) {
  static constexpr GemmBackend kBackend = {static_cast<int>(kLanes), kTileRows, kKernel, kHas, kEnds, stage, finish, pack, add_rows};
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
