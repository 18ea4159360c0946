// The register tiles of grouped attention's matrix products.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_attention_tile.cc"
#include "kernels/cpu/isa.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "kernels/cpu/grouped_attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

namespace {

// Loops over tile elements have constant bounds and must be unrolled entirely: the tile lives in registers.
#if defined(__clang__)
#define FOVEA_UNROLL _Pragma("unroll")
#else
#define FOVEA_UNROLL _Pragma("GCC unroll 8")
#endif

template <int32_t kRows, int32_t kVectors, bool kColumns>
void product_tile(const Product& p) {
  const D d;
  V acc[kRows][kVectors];
  if (p.init) {
    const float* HWY_RESTRICT init = p.init;
    const int64_t init_stride = p.init_stride;
    FOVEA_UNROLL
    for (int32_t r = 0; r < kRows; ++r) {
      FOVEA_UNROLL
      for (int32_t j = 0; j < kVectors; ++j) acc[r][j] = hn::Load(d, init + r * init_stride + j * kLanes);
    }
  } else {
    FOVEA_UNROLL
    for (int32_t r = 0; r < kRows; ++r) {
      FOVEA_UNROLL
      for (int32_t j = 0; j < kVectors; ++j) acc[r][j] = hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT a = p.a;
  const float* HWY_RESTRICT b = p.b;
  const int64_t a_stride = p.a_stride, b_stride = p.b_stride;
  const float* HWY_RESTRICT a3 = kColumns ? a : a + 3 * a_stride;
  for (int64_t k = p.depth; k > 0; --k) {
    V bv[kVectors];
    FOVEA_UNROLL
    for (int32_t j = 0; j < kVectors; ++j) bv[j] = hn::Load(d, b + j * kLanes);
    FOVEA_UNROLL
    for (int32_t r = 0; r < kRows; ++r) {
      const V av = hn::Set(d, kColumns ? a[r] : r < 3 ? a[r * a_stride] : a3[(r - 3) * a_stride]);
      FOVEA_UNROLL
      for (int32_t j = 0; j < kVectors; ++j) acc[r][j] = hn::MulAdd(av, bv[j], acc[r][j]);
    }
    b += b_stride;
    a += kColumns ? a_stride : 1;
    a3 += kColumns ? a_stride : 1;
  }
  float* HWY_RESTRICT c = p.c;
  const int64_t c_stride = p.c_stride;
  FOVEA_UNROLL
  for (int32_t r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int32_t j = 0; j < kVectors; ++j) hn::Store(acc[r][j], d, c + r * c_stride + j * kLanes);
  }
}

template <bool kColumns, int32_t kRows>
void fill_row(ProductTable& t) {
  t.f[kColumns ? 1 : 0][kRows - 1][0] = product_tile<kRows, 1, kColumns>;
  t.f[kColumns ? 1 : 0][kRows - 1][1] = product_tile<kRows, 2, kColumns>;
  if constexpr (kTileVectors == 4) {
    t.f[kColumns ? 1 : 0][kRows - 1][2] = product_tile<kRows, 3, kColumns>;
    t.f[kColumns ? 1 : 0][kRows - 1][3] = product_tile<kRows, 4, kColumns>;
  }
}

template <bool kColumns>
void fill_rows(ProductTable& t) {
  fill_row<kColumns, 1>(t);
  fill_row<kColumns, 2>(t);
  fill_row<kColumns, 3>(t);
  fill_row<kColumns, 4>(t);
  fill_row<kColumns, 5>(t);
  fill_row<kColumns, 6>(t);
}

}  // namespace

const ProductTable& product_table() {
  static const ProductTable table = [] {
    ProductTable t{};
    fill_rows<false>(t);
    fill_rows<true>(t);
    return t;
  }();
  return table;
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();
