// Vector parts of the grouped attention kernel, once per instruction set: register tiles of matrix products, 2^x, and
// packing rows through their codes (kernels/cpu/grouped_attention_plan.h).
//
// Scores live in base 2: queries are packed with scale * log2(e), so that exp becomes 2^x without a product of its own.

#if defined(FOVEA_GROUPED_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_TILE_INL_H_
#undef FOVEA_GROUPED_ATTENTION_TILE_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention_pack.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/grouped_attention_plan.h"
#include "kernels/cpu/jit_product.h"
#include "kernels/cpu/levels.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

namespace hn = hwy::HWY_NAMESPACE;
namespace plan = fovea::grouped_attention_plan;

using D = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;

constexpr int32_t kLanes = static_cast<int32_t>(HWY_MAX_BYTES / sizeof(float));
constexpr int32_t kTileRows = 6;
constexpr int32_t kTileVectors = kLanes == 16 ? 4 : 2;  // with kTileRows: what the registers hold
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// Tiles of products, as fovea::Product says; vectors count kLanes floats here.
struct ProductTable {
  ProductFunction f[2][kTileRows][kTileVectors];  // [a_columns][rows - 1][vectors - 1]
};
const ProductTable& product_table();

// A tile of at most kTileRows and kTileVectors: generated code where there is some.
inline ProductFunction tile_of(bool a_columns, int32_t rows, int32_t vectors) {
  if constexpr (kLanes == 16)
    if (const ProductFunction f = jit_product(a_columns, rows, vectors)) return f;
  return product_table().f[a_columns ? 1 : 0][rows - 1][vectors - 1];
}

// The same for any number of rows and vectors, in the largest tiles there are.
inline void product(bool a_columns, int32_t rows, int32_t vectors, const Product& whole) {
  const plan::Pieces columns(vectors, kTileVectors);
  for (int32_t i = 0; i < columns.pieces; ++i) {
    const int32_t begin = columns.begin(i) * kLanes, width = columns.begin(i + 1) - columns.begin(i);
    const auto run = [&](ProductFunction f, int32_t r) {
      Product p = whole;
      p.a += a_columns ? r : r * whole.a_stride;
      p.b += begin;
      if (p.init) p.init += r * whole.init_stride + begin;
      p.c += r * whole.c_stride + begin;
      f(p);
    };
    const bool generated = kLanes == 16 && jit_product(a_columns, 1, width) != nullptr;
    const plan::Pieces tiles(rows, generated ? product_rows(width) : kTileRows);
    for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
      const int32_t r = tiles.begin(tile), n = tiles.begin(tile + 1) - r;
      if (const ProductFunction f = generated ? jit_product(a_columns, n, width) : nullptr) {
        run(f, r);
        continue;
      }
      const plan::Pieces parts(n, kTileRows);
      for (int32_t part = 0; part < parts.pieces; ++part)
        run(product_table().f[a_columns ? 1 : 0][parts.begin(part + 1) - parts.begin(part) - 1][width - 1], r + parts.begin(part));
    }
  }
}

// 2^x with a relative error of 2 ulp; exactly 0 below -126 (and at minus infinity), where results would be denormal.
HWY_INLINE V exp2(const D d, V x) {
  // The sum's low bits are round(x) + 127, which shifted up are the exponent of 2^round(x).
  const V magic = hn::Set(d, 12582912.0f + 127.0f);
  const V sum = hn::Add(x, magic);
  const V f = hn::Sub(x, hn::Sub(sum, magic));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(DI(), sum)));
  // Minimax in relative error on [-1/2, 1/2] with constant term 1: 2.6e-9.
  V p = hn::MulAdd(hn::Set(d, 1.5594677542571042e-4f), f, hn::Set(d, 1.3406643904668742e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.617692974922510e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550310550996972e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022652782875986e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931472149680388e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::Mul(p, power));
}
inline float exp2(float x) { return hn::GetLane(exp2(D(), hn::Set(D(), x))); }

inline float sum_of_lanes(V v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }
inline float max_of_lanes(V v) { return hn::GetLane(hn::MaxOfLanes(D(), v)); }

// The first n < kLanes floats at p, zeros behind them; nothing else is read.
HWY_INLINE V load_partial(const float* HWY_RESTRICT p, int32_t n) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(D(), static_cast<size_t>(n)), D(), p);
#else
  HWY_ALIGN float t[kLanes] = {};
  for (int32_t i = 0; i < n; ++i) t[i] = p[i];
  return hn::Load(D(), t);
#endif
}
HWY_INLINE void store_partial(V v, float* HWY_RESTRICT p, int32_t n) {
  HWY_ALIGN float t[kLanes];
  hn::Store(v, D(), t);
  for (int32_t i = 0; i < n; ++i) p[i] = t[i];
}

// f(vector index, whole vector?) over `width` floats: whole vectors, then the rest.
template <class Whole, class Rest>
HWY_INLINE void for_vectors(int64_t width, Whole&& whole, Rest&& rest) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) whole(i);
  if (i < width) rest(i, static_cast<int32_t>(width - i));
}

// Asks for the memory of a row, to be read or written.
template <bool kWrite>
HWY_INLINE void prefetch(const float* row, int64_t width) {
  for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(row + i, kWrite ? 1 : 0);
  asm volatile("");  // GCC takes a function of nothing but prefetches for one without effects, and its calls away
}

constexpr int64_t kMaxHeadDim = 256;

// What rows are stored as, and kLevels: bfloat16 that are rounded to s · round(x / s) where they are packed, with s = max |x| / 127.
enum class RowElement : uint8_t { kFloat, kBf16, kLevels };

// Rows of one head of one batch element by their codes.
class Rows {
 public:
  Rows(const ConstHeadsView& token, const ConstHeadsView& memory, const void* pad, int64_t head_dim, int64_t b, int64_t h, RowElement element = RowElement::kFloat)
      : element_(element),
        token_(at(token, b, h)),
        memory_(at(memory, b, h)),
        pad_(pad ? static_cast<const char*>(pad) + h * head_dim * size() : reinterpret_cast<const char*>(zeros())),
        token_stride_(token.token_stride * size()),
        memory_stride_(memory.token_stride * size()) {}

  const float* row(int32_t code) const { return reinterpret_cast<const float*>(address(code)); }  // of floats
  const uint16_t* bf16_row(int32_t code) const { return reinterpret_cast<const uint16_t*>(address(code)); }
  bool bf16() const { return element_ != RowElement::kFloat; }
  bool levels() const { return element_ == RowElement::kLevels; }
  // Asks for the memory of a row that is read soon, and of the same row's next head: its place is known to be mapped and close.
  HWY_INLINE void fetch(int32_t code, int64_t width) const { prefetch<false>(row(code), floats(width)); }
  HWY_INLINE void fetch_next_head(int32_t code, int64_t width) const { prefetch<false>(row(code) + floats(width), floats(width)); }
  static const float* zeros() {  // a row of any legal head_dim
    alignas(64) static const float z[kMaxHeadDim + 16] = {};
    return z;
  }

 private:
  int64_t size() const { return bf16() ? 2 : 4; }
  int64_t floats(int64_t width) const { return bf16() ? width / 2 : width; }
  const char* at(const ConstHeadsView& v, int64_t b, int64_t h) const {
    return v.data ? static_cast<const char*>(v.data) + (b * v.batch_stride + h * v.head_stride) * size() : nullptr;
  }
  const char* address(int32_t code) const {
    if (plan::is_token(code)) return token_ + code * token_stride_;
    return code == plan::kPadCode ? pad_ : memory_ + plan::memory_code(code) * memory_stride_;
  }

  RowElement element_;
  const char *token_, *memory_, *pad_;
  int64_t token_stride_, memory_stride_;  // bytes
};

// A row is asked for so many rows before it is read. In groups of few rows the next head follows so soon that its rows are still in a
// cache when they were asked for along with this head's.
constexpr int32_t kAhead = 8;
constexpr int32_t kFewRows = 256;

// dst (width rounded up to vectors, zeros behind) = factor * src (width).
HWY_INLINE void pack_row(const float* HWY_RESTRICT src, int64_t width, float factor, float* HWY_RESTRICT dst) {
  const V f = hn::Set(D(), factor);
  for_vectors(
      width, [&](int64_t i) { hn::Store(hn::Mul(f, hn::LoadU(D(), src + i)), D(), dst + i); },
      [&](int64_t i, int32_t n) { hn::Store(hn::Mul(f, load_partial(src + i, n)), D(), dst + i); });
}

// row (width in whole vectors, zeros behind) = factor · s · round(row / s), ties to even, with s = max |row| / 127; NaN where it is not finite.
inline void round_to_levels(float* HWY_RESTRICT row, int64_t width, float factor) {
  const D d;
  const DU du;
  auto most = hn::Zero(du);
  for (int64_t i = 0; i < width; i += kLanes) most = hn::Max(most, hn::BitCast(du, hn::Abs(hn::Load(d, row + i))));
  const Levels levels = levels_of(hn::GetLane(hn::MaxOfLanes(du, most)));
  const V inverse = hn::Set(d, levels.inverse), scale = hn::Set(d, levels.scale * factor);
  for (int64_t i = 0; i < width; i += kLanes) hn::Store(hn::Mul(scale, hn::Round(hn::Mul(hn::Load(d, row + i), inverse))), d, row + i);
}

inline void pack_row(const Rows& rows, int32_t code, int64_t width, float factor, float* HWY_RESTRICT dst) {
  if (!rows.bf16()) return pack_row(rows.row(code), width, factor, dst);
  const uint16_t* src = rows.bf16_row(code);
  const V f = hn::Set(D(), rows.levels() ? 1.0f : factor);
  for_vectors(
      width, [&](int64_t i) { hn::Store(hn::Mul(f, LoadBf16(src + i)), D(), dst + i); },
      [&](int64_t i, int32_t n) { hn::Store(hn::Mul(f, LoadBf16Tail(src + i, static_cast<size_t>(n))), D(), dst + i); });
  if (rows.levels()) round_to_levels(dst, width, factor);
}

// Stores the 128-bit blocks of v to rows of dst.
template <int32_t kCount, class DV, class W>
HWY_INLINE void store_blocks(DV d, W v, float* HWY_RESTRICT dst, int64_t block_stride) {
  if constexpr (kCount <= 4) {
    hn::StoreU(v, d, dst);
  } else {
    const hn::Half<DV> half;
    store_blocks<kCount / 2>(half, hn::LowerHalf(half, v), dst, block_stride);
    store_blocks<kCount / 2>(half, hn::UpperHalf(half, v), dst + kCount / 8 * block_stride, block_stride);
  }
}

// Key rows as panels of columns: panel i of `pieces` is (head_dim, its vectors * kLanes), panels one behind the other. `copies`, unless
// null, gets the rows as they are, head_dim rounded up to vectors apart. `next_head`: the same rows of the next head are wanted soon.
inline void pack_panels(const Rows& rows, const int32_t* codes, int32_t count, const plan::Pieces& pieces, int64_t head_dim,
                        float* HWY_RESTRICT dst, float* HWY_RESTRICT copies = nullptr, bool next_head = false) {
  const D d;
  const hn::Repartition<double, D> d64;
  HWY_ALIGN float wide[4 * kMaxHeadDim];
  const bool whole = kLanes == 16 && !rows.bf16() && copies == nullptr;  // vectors of keys
  for (int32_t piece = 0; piece < pieces.pieces; ++piece) {
    const int32_t first = pieces.begin(piece) * kLanes, width = pieces.begin(piece + 1) * kLanes - first;
    for (int32_t k = 0; k < width && whole; k += kLanes) {
      const float* src[kLanes];
      const int32_t n = std::clamp(count - first - k, 0, kLanes);
      for (int32_t i = 0; i < n; ++i) {
        const int32_t* code = codes + first + k + i;
        if (first + k + i + kLanes < count) rows.fetch(code[kLanes], head_dim);
        if (next_head) rows.fetch_next_head(*code, head_dim);
        src[i] = rows.row(*code);
      }
      transpose_words(src, n, head_dim, dst + k, width);
    }
    for (int32_t k = 0; k < width && !whole; k += 4) {
      if (first + k >= count) {
        for (int64_t i = 0; i < head_dim; ++i) std::fill_n(dst + i * width + k, 4, 0.0f);
        continue;
      }
      for (int32_t i = first + k; i < std::min(first + k + 4, count); ++i) {
        if (i + kAhead < count) rows.fetch(codes[i + kAhead], head_dim);
        if (next_head) rows.fetch_next_head(codes[i], head_dim);
      }
      const float* src[4];
      for (int32_t i = 0; i < 4; ++i) {
        src[i] = first + k + i < count ? rows.row(codes[first + k + i]) : Rows::zeros();
        if (!rows.bf16() || first + k + i >= count) continue;
        pack_row(rows, codes[first + k + i], head_dim, 1.0f, wide + i * kMaxHeadDim);
        src[i] = wide + i * kMaxHeadDim;
      }
      if (copies) {
        const int64_t stride = plan::round_up(head_dim, kLanes);
        for (int32_t i = 0; i < std::min(4, count - first - k); ++i) pack_row(src[i], head_dim, 1.0f, copies + (first + k + i) * stride);
      }
      const auto transpose = [&](V r0, V r1, V r2, V r3, int64_t dim, int32_t dims) HWY_ATTR {
        // 4 x 4 transposes in each 128-bit block.
        const V lo01 = hn::InterleaveLower(d, r0, r1), hi01 = hn::InterleaveUpper(d, r0, r1);
        const V lo23 = hn::InterleaveLower(d, r2, r3), hi23 = hn::InterleaveUpper(d, r2, r3);
        const auto pair_lower = [&](V a, V b) HWY_ATTR {
          return hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
        };
        const auto pair_upper = [&](V a, V b) HWY_ATTR {
          return hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
        };
        const V t0 = pair_lower(lo01, lo23), t1 = pair_upper(lo01, lo23);
        const V t2 = pair_lower(hi01, hi23), t3 = pair_upper(hi01, hi23);
        float* to = dst + dim * width + k;
        if (dims == kLanes) {
          store_blocks<kLanes>(d, t0, to, 4 * width);
          store_blocks<kLanes>(d, t1, to + width, 4 * width);
          store_blocks<kLanes>(d, t2, to + 2 * width, 4 * width);
          store_blocks<kLanes>(d, t3, to + 3 * width, 4 * width);
        } else {
          HWY_ALIGN float t[4 * kLanes];
          hn::Store(t0, d, t);
          hn::Store(t1, d, t + kLanes);
          hn::Store(t2, d, t + 2 * kLanes);
          hn::Store(t3, d, t + 3 * kLanes);
          for (int32_t i = 0; i < dims; ++i)
            for (int32_t j = 0; j < 4; ++j) to[i * width + j] = t[(i % 4) * kLanes + i / 4 * 4 + j];
        }
      };
      for_vectors(
          head_dim,
          [&](int64_t i) HWY_ATTR {
            transpose(hn::LoadU(d, src[0] + i), hn::LoadU(d, src[1] + i), hn::LoadU(d, src[2] + i), hn::LoadU(d, src[3] + i),
                      i, kLanes);
          },
          [&](int64_t i, int32_t n) HWY_ATTR {
            transpose(load_partial(src[0] + i, n), load_partial(src[1] + i, n), load_partial(src[2] + i, n),
                      load_partial(src[3] + i, n), i, n);
          });
    }
    dst += head_dim * width;
  }
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
