#include "kernels/cpu/native_rows.h"

#include "core/check.h"
#include "kernels/cpu/levels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#define FOVEA_ROWS_CODE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define FOVEA_BF16_ROWS_CODE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

namespace fovea {

namespace {

constexpr int64_t kOfVector = 16, kOfPair = 2 * kOfVector, kOfStore = 4 * kOfVector;

template <class Mask>
Mask lanes_of(int64_t count) {
  constexpr int64_t kLanesOfMask = 8 * sizeof(Mask);
  return count >= kLanesOfMask ? static_cast<Mask>(~Mask{0}) : static_cast<Mask>((uint64_t{1} << std::max<int64_t>(count, 0)) - 1);
}

// ---- bytes ----------------------------------------------------------------------------------------------------------

// Added to a level, it leaves level + 128, rounded to even, in the lowest byte of the sum.
constexpr float kToByte = 0x1.8p23F + 128;

// Words of two vectors, of which the low ones of fours count; fours of bytes after words were packed, which works in blocks of 128 bits.
struct LowWords {
  alignas(64) uint16_t places[32];
  constexpr LowWords() : places() {
    for (uint16_t i = 0; i < 32; ++i) places[i] = static_cast<uint16_t>(2 * i);
  }
};
constexpr LowWords kLowWords;
struct ByteOrder {
  alignas(64) int32_t fours[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
};
constexpr ByteOrder kByteOrder;

// A row's magnitudes, whose bits are in their order, by vectors of kOfMagnitudes; and sums of elements with kToByte, which come in twos of
// vectors, as words in order.
struct FloatRow {
  const float* x;

  static FloatRow of(const float* p) { return {p}; }

  static constexpr int64_t kOfMagnitudes = kOfVector;
  FOVEA_ROWS_CODE __m512i magnitudes(int64_t i, int64_t count) const {
    return _mm512_and_si512(_mm512_set1_epi32(0x7fffffff), _mm512_maskz_loadu_epi32(lanes_of<__mmask16>(count), x + i));
  }
  FOVEA_ROWS_CODE static __m512i greater(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  FOVEA_ROWS_CODE static __m512i as_floats(__m512i magnitudes) { return magnitudes; }

  FOVEA_ROWS_CODE void load(int64_t i, __m512& a, __m512& b) const {
    a = _mm512_loadu_ps(x + i);
    b = _mm512_loadu_ps(x + i + kOfVector);
  }
  FOVEA_ROWS_CODE void load(int64_t i, int64_t count, __m512& a, __m512& b) const {
    a = _mm512_maskz_loadu_ps(lanes_of<__mmask16>(count), x + i);
    b = _mm512_maskz_loadu_ps(lanes_of<__mmask16>(count - kOfVector), x + i + kOfVector);
  }
  FOVEA_ROWS_CODE static __m512i words(__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, _mm512_load_si512(kLowWords.places), b); }
};

// Even elements in the first, odd ones in the second.
struct Bfloat16Row {
  const uint16_t* x;

  static Bfloat16Row of(const float* p) { return {reinterpret_cast<const uint16_t*>(p)}; }

  static constexpr int64_t kOfMagnitudes = kOfPair;
  FOVEA_ROWS_CODE __m512i magnitudes(int64_t i, int64_t count) const {
    return _mm512_and_si512(_mm512_set1_epi16(0x7fff), _mm512_maskz_loadu_epi16(lanes_of<__mmask32>(count), x + i));
  }
  FOVEA_ROWS_CODE static __m512i greater(__m512i a, __m512i b) { return _mm512_max_epu16(a, b); }
  FOVEA_ROWS_CODE static __m512i as_floats(__m512i magnitudes) {
    return _mm512_max_epu32(_mm512_slli_epi32(magnitudes, 16), _mm512_and_si512(magnitudes, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  FOVEA_ROWS_CODE static void widen(__m512i both, __m512& a, __m512& b) {
    a = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    b = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  FOVEA_ROWS_CODE void load(int64_t i, __m512& a, __m512& b) const { widen(_mm512_loadu_si512(x + i), a, b); }
  FOVEA_ROWS_CODE void load(int64_t i, int64_t count, __m512& a, __m512& b) const {
    widen(_mm512_maskz_loadu_epi16(lanes_of<__mmask32>(count), x + i), a, b);
  }
  FOVEA_ROWS_CODE static __m512i words(__m512i a, __m512i b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)); }
};

// Lane by lane, as floats.
template <class Row>
FOVEA_ROWS_CODE inline __m512i greatest_magnitudes(const Row& row, int64_t k) {
  constexpr int64_t kStep = Row::kOfMagnitudes;
  __m512i most[2] = {};
  int64_t i = 0;
  for (; i + 2 * kStep <= k; i += 2 * kStep)
    for (int v = 0; v < 2; ++v) most[v] = Row::greater(most[v], row.magnitudes(i + v * kStep, kStep));
  for (; i < k; i += kStep) most[0] = Row::greater(most[0], row.magnitudes(i, k - i));
  return Row::as_floats(Row::greater(most[0], most[1]));
}

// x (k) as round(x / scale) + 128, ties to even, where 1 / scale is kMostLevel / max |x|. Bytes behind the last are written up to a whole vector of 16.
template <class Row>
FOVEA_ROWS_CODE inline void write_levels(const Row& row, float inverse_scale, int64_t k, uint8_t* out) {
  const __m512 inverse = _mm512_set1_ps(inverse_scale), to_byte = _mm512_set1_ps(kToByte);
  const __m512i order = _mm512_load_si512(kByteOrder.fours);
  const auto words = [&](__m512 a, __m512 b) FOVEA_ROWS_CODE {
    return Row::words(_mm512_castps_si512(_mm512_fmadd_ps(a, inverse, to_byte)), _mm512_castps_si512(_mm512_fmadd_ps(b, inverse, to_byte)));
  };
  const auto bytes = [&](__m512i first, __m512i second) FOVEA_ROWS_CODE { return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second)); };
  __m512 a, b, c, d;
  int64_t i = 0;
  for (; i + kOfStore <= k; i += kOfStore) {
    row.load(i, a, b);
    row.load(i + kOfPair, c, d);
    _mm512_storeu_si512(out + i, bytes(words(a, b), words(c, d)));
  }
  const auto half = [&](__m512i first) FOVEA_ROWS_CODE { return _mm512_castsi512_si256(bytes(first, first)); };
  if (i + kOfPair <= k) {
    row.load(i, a, b);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), half(words(a, b)));
    i += kOfPair;
  }
  if (i < k) {
    row.load(i, k - i, a, b);
    const int64_t behind = (k - i + kOfVector - 1) / kOfVector * kOfVector;
    _mm256_mask_storeu_epi8(out + i, lanes_of<__mmask32>(behind), half(words(a, b)));
  }
}

// ---- groups of rows -------------------------------------------------------------------------------------------------

// Rows side by side: their reductions share instructions. A row's bits do not depend on its place. What is found of a group is needed only after
// the same was found of a whole batch, so that no row waits for its own sums; a batch stays in the first cache from one pass to the next.
constexpr int kGroupRows = 4, kMostGroups = 8;
static_assert(native_rows_kept(1) <= kGroupRows * kMostGroups);

struct RowGroup {
  const float* x[kGroupRows];  // or of bfloat16
  char* out[kGroupRows];
  int64_t source[kGroupRows];
  __m512 mean, rstd, greatest;  // of row r in the r-th 128 bits
};

struct AddLanes {
  FOVEA_ROWS_CODE static __m512 of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};
// Of numbers without their signs, which are in the order of their bits; what is not finite comes last.
struct GreatestBits {
  FOVEA_ROWS_CODE static __m512 of(__m512 a, __m512 b) { return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b))); }
};

// All lanes of v[r] in one number, which is in every lane of the result's r-th 128 bits.
template <class Op>
FOVEA_ROWS_CODE inline __m512 folded(const __m512 (&v)[kGroupRows]) {
  const __m512 ab = Op::of(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xee));
  const __m512 cd = Op::of(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xee));
  __m512 all = Op::of(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  all = Op::of(all, _mm512_permute_ps(all, 0xb1));
  return Op::of(all, _mm512_permute_ps(all, 0x4e));
}

// Lane r of the result is all lanes of v[r] in one number.
template <class Op>
FOVEA_ROWS_CODE inline __m512 folded(__m512 (&v)[kOfVector]) {
  for (int i = 0; i < 8; ++i) v[i] = Op::of(_mm512_unpacklo_ps(v[i], v[i + 8]), _mm512_unpackhi_ps(v[i], v[i + 8]));
  for (int i = 0; i < 4; ++i) v[i] = Op::of(_mm512_unpacklo_ps(v[i], v[i + 4]), _mm512_unpackhi_ps(v[i], v[i + 4]));
  // Lane j of each 128 bits has its part of row i + 4 j; the blocks of what follows are of rows 0, 2, 1 and 3.
  for (int i = 0; i < 2; ++i) v[i] = Op::of(_mm512_shuffle_f32x4(v[i], v[i + 2], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 2], 0xdd));
  const __m512 all = Op::of(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15), all);
}

FOVEA_ROWS_CODE inline void spread(__m512 folded, __m512 (&to)[kGroupRows]) {
  to[0] = _mm512_shuffle_f32x4(folded, folded, 0x00);
  to[1] = _mm512_shuffle_f32x4(folded, folded, 0x55);
  to[2] = _mm512_shuffle_f32x4(folded, folded, 0xaa);
  to[3] = _mm512_shuffle_f32x4(folded, folded, 0xff);
}

// mean and 1 / sqrt(population variance + epsilon) over k channels, in two passes over rows that are in the cache after the first.
FOVEA_ROWS_CODE void take_statistics(RowGroup& g, int64_t k, float epsilon) {
  const __m512 share = _mm512_set1_ps(1.0f / static_cast<float>(k));
  const __mmask16 rest = lanes_of<__mmask16>(k % kOfVector);
  __m512 even[kGroupRows] = {}, odd[kGroupRows] = {}, mean[kGroupRows];
  int64_t i = 0;
  for (; i + 2 * kOfVector <= k; i += 2 * kOfVector)
    for (int r = 0; r < kGroupRows; ++r) {
      even[r] = _mm512_add_ps(even[r], _mm512_loadu_ps(g.x[r] + i));
      odd[r] = _mm512_add_ps(odd[r], _mm512_loadu_ps(g.x[r] + i + kOfVector));
    }
  if (i + kOfVector <= k) {
    for (int r = 0; r < kGroupRows; ++r) even[r] = _mm512_add_ps(even[r], _mm512_loadu_ps(g.x[r] + i));
    i += kOfVector;
  }
  if (i < k)
    for (int r = 0; r < kGroupRows; ++r) odd[r] = _mm512_add_ps(odd[r], _mm512_maskz_loadu_ps(rest, g.x[r] + i));
  for (int r = 0; r < kGroupRows; ++r) even[r] = _mm512_add_ps(even[r], odd[r]);
  g.mean = _mm512_mul_ps(folded<AddLanes>(even), share);
  spread(g.mean, mean);
  __m512 square[kGroupRows] = {};
  i = 0;
  for (; i + kOfVector <= k; i += kOfVector)
    for (int r = 0; r < kGroupRows; ++r) {
      const __m512 delta = _mm512_sub_ps(_mm512_loadu_ps(g.x[r] + i), mean[r]);
      square[r] = _mm512_fmadd_ps(delta, delta, square[r]);
    }
  if (i < k)
    for (int r = 0; r < kGroupRows; ++r) {
      const __m512 delta = _mm512_maskz_sub_ps(rest, _mm512_maskz_loadu_ps(rest, g.x[r] + i), mean[r]);
      square[r] = _mm512_fmadd_ps(delta, delta, square[r]);
    }
  const __m512 variance = _mm512_mul_ps(folded<AddLanes>(square), share);
  g.rstd = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_add_ps(variance, _mm512_set1_ps(epsilon))));
}

// Statistics that are known.
FOVEA_ROWS_CODE void read_statistics(RowGroup& g, const float* mean, const float* rstd) {
  const auto both = [&](const float* from) FOVEA_ROWS_CODE {
    __m512 v = _mm512_setzero_ps();
    for (int r = 0; r < kGroupRows; ++r) v = _mm512_mask_mov_ps(v, static_cast<__mmask16>(0xf << 4 * r), _mm512_set1_ps(from[std::max<int64_t>(g.source[r], 0)]));
    return v;
  };
  g.mean = both(mean);
  g.rstd = both(rstd);
}

// write(r, i, v): vectors of normalised rows, zeros behind k; or write(r, i, v, next), two of them. All rows are read before one is written, as
// rows may be written in place, and the last one of a batch may stand for several.
template <class Write>  // inlined, as the writer may be code for more instructions
FOVEA_ROWS_CODE __attribute__((always_inline)) inline void normalise(const RowGroup& g, int64_t k, const float* gamma, const float* beta, Write& write) {
  __m512 mean[kGroupRows], rstd[kGroupRows];
  spread(g.mean, mean);
  spread(g.rstd, rstd);
  const auto of = [&](int r, __m512 x, __m512 factor, __m512 offset) FOVEA_ROWS_CODE {
    return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_sub_ps(x, mean[r]), rstd[r]), factor, offset);
  };
  int64_t i = 0;
  for (; i + 2 * kOfVector <= k; i += 2 * kOfVector) {
    const int64_t j = i + kOfVector;
    const __m512 factor = _mm512_loadu_ps(gamma + i), offset = _mm512_loadu_ps(beta + i), next_factor = _mm512_loadu_ps(gamma + j), next_offset = _mm512_loadu_ps(beta + j);
    __m512 v[kGroupRows], next[kGroupRows];
    for (int r = 0; r < kGroupRows; ++r) {
      v[r] = of(r, _mm512_loadu_ps(g.x[r] + i), factor, offset);
      next[r] = of(r, _mm512_loadu_ps(g.x[r] + j), next_factor, next_offset);
    }
    for (int r = 0; r < kGroupRows; ++r) write(r, i, v[r], next[r]);
  }
  for (; i < k; i += kOfVector) {
    const __mmask16 mask = lanes_of<__mmask16>(k - i);
    const __m512 factor = _mm512_maskz_loadu_ps(mask, gamma + i), offset = _mm512_maskz_loadu_ps(mask, beta + i);
    __m512 v[kGroupRows];
    for (int r = 0; r < kGroupRows; ++r) v[r] = _mm512_maskz_mov_ps(mask, of(r, _mm512_maskz_loadu_ps(mask, g.x[r] + i), factor, offset));
    for (int r = 0; r < kGroupRows; ++r) write(r, i, v[r]);
  }
}

struct Bf16Writer {
  char* const* out;
  FOVEA_BF16_ROWS_CODE void operator()(int r, int64_t i, __m512 v, __m512 next) const {
    _mm512_storeu_si512(out[r] + 2 * i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(next, v)));
  }
  FOVEA_BF16_ROWS_CODE void operator()(int r, int64_t i, __m512 v) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[r] + 2 * i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
  }
};

FOVEA_BF16_ROWS_CODE void write_bf16(const RowGroup& g, int64_t k, const float* gamma, const float* beta) {
  Bf16Writer writer{g.out};
  normalise(g, k, gamma, beta, writer);
}

struct FloatWriter {
  char* const* out;
  FOVEA_ROWS_CODE void operator()(int r, int64_t i, __m512 v, __m512 next) const {
    (*this)(r, i, v);
    (*this)(r, i + kOfVector, next);
  }
  FOVEA_ROWS_CODE void operator()(int r, int64_t i, __m512 v) const { _mm512_storeu_ps(out[r] + 4 * i, v); }
};

FOVEA_ROWS_CODE void write_floats(const RowGroup& g, int64_t k, const float* gamma, const float* beta) {
  FloatWriter writer{g.out};
  normalise(g, k, gamma, beta, writer);
}

struct Keeper {
  float* kept;
  int64_t stride;
  __m512 most[kGroupRows];
  FOVEA_ROWS_CODE void operator()(int r, int64_t i, __m512 v, __m512 next) {
    (*this)(r, i, v);
    (*this)(r, i + kOfVector, next);
  }
  FOVEA_ROWS_CODE void operator()(int r, int64_t i, __m512 v) {
    _mm512_storeu_ps(kept + r * stride + i, v);
    most[r] = GreatestBits::of(most[r], _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff))));
  }
};

// Normalised rows, `stride` apart, and their greatest magnitudes.
FOVEA_ROWS_CODE void keep_normalised(RowGroup& g, int64_t k, const float* gamma, const float* beta, float* kept, int64_t stride) {
  Keeper keeper{kept, stride, {}};
  normalise(g, k, gamma, beta, keeper);
  g.greatest = folded<GreatestBits>(keeper.most);
}

template <class Row>
FOVEA_ROWS_CODE void find_greatest(RowGroup& g, int64_t k) {
  __m512 most[kGroupRows];
  for (int r = 0; r < kGroupRows; ++r) most[r] = _mm512_castsi512_ps(greatest_magnitudes(Row::of(g.x[r]), k));
  g.greatest = folded<GreatestBits>(most);
}

// Bytes of `rows` of the group, row(r) being the r-th, and their scales: a row of zeros has scale 0; one that is not finite has NaN, and bytes of no meaning.
template <class RowOf>
FOVEA_ROWS_CODE inline void write_bytes(const RowGroup& g, int64_t k, float* scale, int64_t rows, const RowOf& row) {
  const __m512 levels = _mm512_set1_ps(kMostLevel);
  alignas(64) float inverses[kOfVector], scales[kOfVector];
  _mm512_store_ps(inverses, _mm512_maskz_div_ps(_mm512_cmp_ps_mask(g.greatest, _mm512_setzero_ps(), _CMP_GT_OQ), levels, g.greatest));
  _mm512_store_ps(scales, _mm512_div_ps(g.greatest, levels));
  for (int64_t r = 0; r < rows; ++r) {
    auto* bytes = reinterpret_cast<uint8_t*>(g.out[r]);
    scale[r] = scales[4 * r];
    if (scale[r] < std::numeric_limits<float>::infinity()) {
      write_levels(row(r), inverses[4 * r], k, bytes);
      continue;
    }
    std::memset(bytes, 0, static_cast<size_t>(k));
    scale[r] = std::numeric_limits<float>::quiet_NaN();
  }
}

FOVEA_ROWS_CODE __attribute__((always_inline)) inline void round_rows(const float* const* rows, int64_t count, int64_t k, float factor, uint8_t* out, float* scale) {
  const __m512 levels = _mm512_set1_ps(kMostLevel);
  alignas(64) float inverses[kOfVector];
  for (int64_t first = 0; first < count; first += kOfVector) {
    const int64_t n = std::min(kOfVector, count - first);
    __m512 most[kOfVector];
    for (int64_t r = 0; r < kOfVector; ++r)  // behind the last one that one again
      most[r] = _mm512_castsi512_ps(greatest_magnitudes(Bfloat16Row::of(rows[first + std::min(r, n - 1)]), k));
    const __m512 greatest = folded<GreatestBits>(most);
    const __mmask16 finite = _mm512_cmp_ps_mask(greatest, _mm512_set1_ps(std::numeric_limits<float>::infinity()), _CMP_LT_OQ);
    _mm512_store_ps(inverses, _mm512_maskz_div_ps(_mm512_cmp_ps_mask(greatest, _mm512_setzero_ps(), _CMP_GT_OQ), levels, greatest));
    const __m512 scales = _mm512_mask_mul_ps(_mm512_set1_ps(std::numeric_limits<float>::quiet_NaN()), finite, _mm512_div_ps(greatest, levels), _mm512_set1_ps(factor));
    _mm512_mask_storeu_ps(scale + first, lanes_of<__mmask16>(n), scales);
    for (int64_t r = 0; r < n; ++r) write_levels(Bfloat16Row::of(rows[first + r]), inverses[r], k, out + (first + r) * k);
  }
}

}  // namespace

FOVEA_ROWS_CODE void stage_native_rows(const GemmStage& s) {
  const bool bytes = s.form == OperandForm::kUint8, norm = s.gamma != nullptr;
  const size_t written = static_cast<size_t>((s.k + elements_of_step(s.form) - 1) / elements_of_step(s.form)) * sizeof(float);
  const int64_t stride = (s.k + kOfVector - 1) / kOfVector * kOfVector, element = s.a_bf16 ? 2 : 4, batch = native_rows_kept(s.k);
  const float *gamma = s.gamma + (norm ? s.k_begin : 0), *beta = s.beta + (norm ? s.k_begin : 0);
  RowGroup groups[kMostGroups];
  for (int64_t first = 0; first < s.rows; first += batch) {
    const int64_t end = std::min(first + batch, s.rows);
    const auto for_groups = [&](auto&& f) FOVEA_ROWS_CODE {
      for (int64_t row = first, i = 0; row < end; row += kGroupRows, ++i) f(groups[i], row);
    };
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      for (int64_t r = 0; r < kGroupRows; ++r) {
        const int64_t at = std::min(row + r, end - 1);  // behind the last one that one again
        g.source[r] = s.index == nullptr ? s.first_row + at : s.index[s.first_row + at];
        g.x[r] = reinterpret_cast<const float*>(reinterpret_cast<const char*>(s.a) + std::max<int64_t>(g.source[r], 0) * s.a_stride * element);
        g.out[r] = reinterpret_cast<char*>(s.out + at * s.out_stride);
      }
      if (norm) s.mean == nullptr ? take_statistics(g, s.row_k, s.epsilon) : read_statistics(g, s.mean, s.rstd);
      for (const float*& x : g.x) x = reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + s.k_begin * element);
    });
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      if (!norm)
        s.a_bf16 ? find_greatest<Bfloat16Row>(g, s.k) : find_greatest<FloatRow>(g, s.k);
      else if (bytes)
        keep_normalised(g, s.k, gamma, beta, s.row + (row - first) * stride, stride);
      else
        s.form == OperandForm::kBF16 ? write_bf16(g, s.k, gamma, beta) : write_floats(g, s.k, gamma, beta);
    });
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      const int64_t count = std::min<int64_t>(kGroupRows, end - row);
      float* scale = bytes ? s.scale + row : nullptr;
      if (bytes && norm)
        write_bytes(g, s.k, scale, count, [&](int64_t r) { return FloatRow{s.row + (row - first + r) * stride}; });
      else if (bytes && s.a_bf16)
        write_bytes(g, s.k, scale, count, [&](int64_t r) { return Bfloat16Row::of(g.x[r]); });
      else if (bytes)
        write_bytes(g, s.k, scale, count, [&](int64_t r) { return FloatRow{g.x[r]}; });
      for (int64_t r = 0; r < count; ++r) {
        if (g.source[r] >= 0) continue;
        std::memset(g.out[r], 0, written);
        if (bytes) scale[r] = 0;
      }
    });
  }
}

FOVEA_ROWS_CODE void round_bf16_rows(const float* const* rows, int64_t count, int64_t k, float factor, uint8_t* out, float* scale) {
  switch (k) {  // a known length has no loops
    case 32: return round_rows(rows, count, 32, factor, out, scale);
    case 64: return round_rows(rows, count, 64, factor, out, scale);
    default: return round_rows(rows, count, k, factor, out, scale);
  }
}

}  // namespace fovea

#else

namespace fovea {

void stage_native_rows(const GemmStage&) { check(false, "no such rows on this processor"); }
void round_bf16_rows(const float* const*, int64_t, int64_t, float, uint8_t*, float*) { check(false, "no such rows on this processor"); }

}  // namespace fovea

#endif
