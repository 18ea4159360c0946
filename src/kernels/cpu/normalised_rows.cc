#include "kernels/cpu/normalised_rows.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/gemm_int8.h"

#define FOVEA_ROWS_CODE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define FOVEA_BF16_ROWS_CODE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

namespace fovea {

namespace {

constexpr int64_t kOfNormVector = 16;

// Rows side by side: their reductions share instructions. A row's bits do not depend on its place. What is found of a group is needed only after
// the same was found of a whole batch, so that no row waits for its own sums; a batch stays in the first cache from one pass to the next.
constexpr int kGroupRows = 4, kMostGroups = 8;

struct RowGroup {
  const float* x[kGroupRows];
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

FOVEA_ROWS_CODE inline void spread(__m512 folded, __m512 (&to)[kGroupRows]) {
  to[0] = _mm512_shuffle_f32x4(folded, folded, 0x00);
  to[1] = _mm512_shuffle_f32x4(folded, folded, 0x55);
  to[2] = _mm512_shuffle_f32x4(folded, folded, 0xaa);
  to[3] = _mm512_shuffle_f32x4(folded, folded, 0xff);
}

__mmask16 lanes_before(int64_t count) { return static_cast<__mmask16>(count >= kOfNormVector ? 0xffff : (1u << std::max<int64_t>(count, 0)) - 1); }

// mean and 1 / sqrt(population variance + epsilon) over k channels, in two passes over rows that are in the cache after the first.
FOVEA_ROWS_CODE void take_statistics(RowGroup& g, int64_t k, float epsilon) {
  const __m512 share = _mm512_set1_ps(1.0f / static_cast<float>(k));
  const __mmask16 rest = lanes_before(k % kOfNormVector);
  __m512 even[kGroupRows] = {}, odd[kGroupRows] = {}, mean[kGroupRows];
  int64_t i = 0;
  for (; i + 2 * kOfNormVector <= k; i += 2 * kOfNormVector)
    for (int r = 0; r < kGroupRows; ++r) {
      even[r] = _mm512_add_ps(even[r], _mm512_loadu_ps(g.x[r] + i));
      odd[r] = _mm512_add_ps(odd[r], _mm512_loadu_ps(g.x[r] + i + kOfNormVector));
    }
  if (i + kOfNormVector <= k) {
    for (int r = 0; r < kGroupRows; ++r) even[r] = _mm512_add_ps(even[r], _mm512_loadu_ps(g.x[r] + i));
    i += kOfNormVector;
  }
  if (i < k)
    for (int r = 0; r < kGroupRows; ++r) odd[r] = _mm512_add_ps(odd[r], _mm512_maskz_loadu_ps(rest, g.x[r] + i));
  for (int r = 0; r < kGroupRows; ++r) even[r] = _mm512_add_ps(even[r], odd[r]);
  g.mean = _mm512_mul_ps(folded<AddLanes>(even), share);
  spread(g.mean, mean);
  __m512 square[kGroupRows] = {};
  i = 0;
  for (; i + kOfNormVector <= k; i += kOfNormVector)
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

// write(r, i, v): vectors of normalised rows, zeros behind k; or write(r, i, v, next), two of them.
template <class Write>  // inlined, as the writer may be code for more instructions
FOVEA_ROWS_CODE __attribute__((always_inline)) inline void normalise(const RowGroup& g, int64_t k, const float* gamma, const float* beta, Write& write) {
  __m512 mean[kGroupRows], rstd[kGroupRows];
  spread(g.mean, mean);
  spread(g.rstd, rstd);
  const auto of = [&](int r, __m512 x, __m512 factor, __m512 offset) FOVEA_ROWS_CODE {
    return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_sub_ps(x, mean[r]), rstd[r]), factor, offset);
  };
  int64_t i = 0;
  for (; i + 2 * kOfNormVector <= k; i += 2 * kOfNormVector) {
    const int64_t j = i + kOfNormVector;
    const __m512 factor = _mm512_loadu_ps(gamma + i), offset = _mm512_loadu_ps(beta + i), next_factor = _mm512_loadu_ps(gamma + j), next_offset = _mm512_loadu_ps(beta + j);
    for (int r = 0; r < kGroupRows; ++r)
      write(r, i, of(r, _mm512_loadu_ps(g.x[r] + i), factor, offset), of(r, _mm512_loadu_ps(g.x[r] + j), next_factor, next_offset));
  }
  for (; i < k; i += kOfNormVector) {
    const __mmask16 mask = lanes_before(k - i);
    const __m512 factor = _mm512_maskz_loadu_ps(mask, gamma + i), offset = _mm512_maskz_loadu_ps(mask, beta + i);
    for (int r = 0; r < kGroupRows; ++r) write(r, i, _mm512_maskz_mov_ps(mask, of(r, _mm512_maskz_loadu_ps(mask, g.x[r] + i), factor, offset)));
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
    (*this)(r, i + kOfNormVector, next);
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
    (*this)(r, i + kOfNormVector, next);
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

// Bytes of such rows as row_to_bytes gives them.
FOVEA_ROWS_CODE void write_bytes(const RowGroup& g, int64_t k, const float* kept, int64_t stride, float* scale, int64_t rows) {
  const __m512 levels = _mm512_set1_ps(kMostLevel);
  alignas(64) float inverses[kOfNormVector], scales[kOfNormVector];
  _mm512_store_ps(inverses, _mm512_maskz_div_ps(_mm512_cmp_ps_mask(g.greatest, _mm512_setzero_ps(), _CMP_GT_OQ), levels, g.greatest));
  _mm512_store_ps(scales, _mm512_div_ps(g.greatest, levels));
  for (int64_t r = 0; r < rows; ++r) {
    auto* bytes = reinterpret_cast<uint8_t*>(g.out[r]);
    scale[r] = scales[4 * r];
    if (scale[r] < std::numeric_limits<float>::infinity()) {
      levels_to_bytes(kept + r * stride, inverses[4 * r], k, bytes);
      continue;
    }
    std::memset(bytes, 0, static_cast<size_t>(k));
    scale[r] = std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace

FOVEA_ROWS_CODE void stage_normalised_rows(const GemmStage& s) {
  const bool bytes = s.form == OperandForm::kUint8;
  const size_t written = static_cast<size_t>((s.k + elements_of_step(s.form) - 1) / elements_of_step(s.form)) * sizeof(float);
  const int64_t stride = (s.k + kOfNormVector - 1) / kOfNormVector * kOfNormVector;
  const float *gamma = s.gamma + s.k_begin, *beta = s.beta + s.k_begin;
  const int64_t most = normalised_rows_kept(s.k);
  RowGroup groups[kMostGroups];
  for (int64_t first = 0; first < s.rows; first += most) {
    const int64_t end = std::min(first + most, s.rows);
    const auto for_groups = [&](auto&& f) FOVEA_ROWS_CODE {
      for (int64_t row = first, i = 0; row < end; row += kGroupRows, ++i) f(groups[i], row);
    };
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      for (int64_t r = 0; r < kGroupRows; ++r) {
        const int64_t at = std::min(row + r, end - 1);  // behind the last one that one again
        g.source[r] = s.index == nullptr ? s.first_row + at : s.index[s.first_row + at];
        g.x[r] = s.a + std::max<int64_t>(g.source[r], 0) * s.a_stride;
        g.out[r] = reinterpret_cast<char*>(s.out + at * s.out_stride);
      }
      s.mean == nullptr ? take_statistics(g, s.row_k, s.epsilon) : read_statistics(g, s.mean, s.rstd);
      for (const float*& x : g.x) x += s.k_begin;
    });
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      if (bytes)
        keep_normalised(g, s.k, gamma, beta, s.row + (row - first) * stride, stride);
      else
        s.form == OperandForm::kBF16 ? write_bf16(g, s.k, gamma, beta) : write_floats(g, s.k, gamma, beta);
    });
    for_groups([&](RowGroup& g, int64_t row) FOVEA_ROWS_CODE {
      const int64_t count = std::min<int64_t>(kGroupRows, end - row);
      if (bytes) write_bytes(g, s.k, s.row + (row - first) * stride, stride, s.scale + row, count);
      for (int64_t r = 0; r < count; ++r) {
        if (g.source[r] >= 0) continue;
        std::memset(g.out[r], 0, written);
        if (bytes) s.scale[row + r] = 0;
      }
    });
  }
}

}  // namespace fovea

#else

namespace fovea {

void stage_normalised_rows(const GemmStage&) { check(false, "no such rows on this processor"); }

}  // namespace fovea

#endif
