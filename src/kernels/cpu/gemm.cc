// Source of the blocking: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; see run_gemm.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

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

GemmTileKernel portable_kernel(int /*rows*/, int vectors, AOrder order) {
  if (order == AOrder::kRows) return vectors == 1 ? portable_tile<1, AOrder::kRows> : portable_tile<2, AOrder::kRows>;
  return vectors == 1 ? portable_tile<1, AOrder::kColumns> : portable_tile<2, AOrder::kColumns>;
}

GemmTileKernel generated_kernel(int rows, int vectors, AOrder order) {
  constexpr Isa kIsa = kLanes == 16 ? Isa::kAvx512 : kLanes == 8 ? Isa::kAvx2 : Isa::kBaseline;
  const GemmTileKernel kernel = jit_gemm_kernel(kIsa, rows, vectors, order);
  return kernel != nullptr ? kernel : portable_kernel(rows, vectors, order);
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
  for (int64_t i = 0; i < s.rows; ++i) {
    float* out = s.out + i * s.out_stride;
    const int64_t source = s.index == nullptr ? s.first_row + i : s.index[s.first_row + i];
    if (source < 0) {
      std::memset(out, 0, static_cast<size_t>(s.k) * sizeof(float));
      continue;
    }
    const float* x = s.a + source * s.a_stride + s.k_begin;
    if (s.mean != nullptr) {
      normalise_row(s, source, x, out);
    } else {
      std::memcpy(out, x, static_cast<size_t>(s.k) * sizeof(float));
    }
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

void pack(const GemmPack& p) { p.b_transposed ? pack_transposed(p) : pack_rows(p); }

// ---- C --------------------------------------------------------------------------------------------------------------

template <class Act>
void finish_rows(const GemmFinish& f, const Act& act) {
  for (int64_t i = 0; i < f.rows; ++i) {
    const float* tile = f.tile + i * f.tile_stride;
    const int64_t row = f.c_rows == nullptr ? i : f.c_rows[i];
    float* pre = f.pre == nullptr ? nullptr : f.pre + i * f.pre_stride;
    float* c = row < 0 ? nullptr : f.c + row * f.c_stride;
    const float* plus = f.addend == nullptr || row < 0 ? nullptr : f.addend + row * f.addend_stride;
    int64_t j = 0;
    for (; j + kLanes <= f.columns; j += kLanes) {
      const V v = hn::LoadU(d, tile + j);
      if (pre != nullptr) hn::StoreU(v, d, pre + j);
      if (c == nullptr) continue;
      V y = act(v);
      if (plus != nullptr) y = hn::Add(y, hn::LoadU(d, plus + j));
      hn::StoreU(y, d, c + j);
    }
    if (j == f.columns) continue;
    const size_t tail = static_cast<size_t>(f.columns - j);
    const V v = hn::LoadU(d, tile + j);
    if (pre != nullptr) StoreTail(v, d, pre + j, tail);
    if (c == nullptr) continue;
    V y = act(v);
    if (plus != nullptr) y = hn::Add(y, LoadTail(d, plus + j, tail));
    StoreTail(y, d, c + j, tail);
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

constexpr GemmBackend backend(GemmTileKernel (*kernel)(int, int, AOrder)) {
  return {static_cast<int>(kLanes), kTileRows, kernel, stage, finish, pack};
}

template <GemmTileKernel (*kKernel)(int, int, AOrder)>
void fill_with(KernelTable& t) {
  static constexpr GemmBackend kBackend = backend(kKernel);
  t.gemm = [](const GemmArgs& g, Context& ctx) { run_gemm(kBackend, g, ctx); };
  t.gemm_packed_bytes = [](int64_t k, int64_t n) { return gemm_packed_size(kBackend, k, n); };
  t.gemm_pack = [](int64_t k, int64_t n, const void* b, int64_t b_stride, bool b_transposed, void* packed, Context& ctx) {
    run_gemm_pack(kBackend, k, n, static_cast<const float*>(b), b_stride, b_transposed, static_cast<float*>(packed), ctx);
  };
}

void fill(KernelTable& t) { fill_with<generated_kernel>(t); }

}  // namespace fovea::HWY_NAMESPACE::gemm_file

namespace fovea::HWY_NAMESPACE::gemm_portable_file {
void fill(KernelTable& t) { gemm_file::fill_with<gemm_file::portable_kernel>(t); }
}  // namespace fovea::HWY_NAMESPACE::gemm_portable_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_gemm(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, gemm_file); }
void fill_gemm_portable(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, gemm_portable_file); }
}  // namespace fovea
#endif
