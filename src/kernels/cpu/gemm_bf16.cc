#include "kernels/cpu/gemm_bf16.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define FOVEA_BF16_CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace fovea {

namespace {

constexpr int64_t kLanes = 16;

__mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>(count >= kLanes ? 0xffff : (1u << std::max<int64_t>(count, 0)) - 1); }

struct PairOrder {
  alignas(64) uint16_t lanes[32];
  constexpr PairOrder() : lanes() {
    for (uint16_t i = 0; i < 16; ++i) {
      lanes[2 * i] = i;
      lanes[2 * i + 1] = static_cast<uint16_t>(16 + i);
    }
  }
};
constexpr PairOrder kPairOrder;

FOVEA_BF16_CODE inline __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// Columns [j, j + 16) of a pair of rows, which are added to `sum`; the second may be missing.
FOVEA_BF16_CODE inline __m512i pair_of(const GemmPack& p, int64_t k, int64_t j, __m512i order, __m512& sum) {
  const __mmask16 mask = first_lanes(p.columns - j);
  const bool second = k + 1 < p.k;
  __m512i rows;
  if (p.b_bf16) {
    const uint16_t* b = reinterpret_cast<const uint16_t*>(p.b) + k * p.b_stride + j;
    const __m256i first = _mm256_maskz_loadu_epi16(mask, b), next = second ? _mm256_maskz_loadu_epi16(mask, b + p.b_stride) : _mm256_setzero_si256();
    rows = _mm512_inserti64x4(_mm512_castsi256_si512(first), next, 1);
    sum = _mm512_add_ps(_mm512_add_ps(sum, widened(first)), widened(next));
  } else {
    const float* b = p.b + k * p.b_stride + j;
    const __m512 first = _mm512_maskz_loadu_ps(mask, b), next = second ? _mm512_maskz_loadu_ps(mask, b + p.b_stride) : _mm512_setzero_ps();
    rows = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(next, first));
    sum = _mm512_add_ps(_mm512_add_ps(sum, first), next);
  }
  return _mm512_permutexvar_epi16(order, rows);
}

}  // namespace

FOVEA_BF16_CODE void round_row_natively(const float* x, int64_t k, void* out) {
  auto* to = static_cast<uint16_t*>(out);
  int64_t i = 0;
  for (; i + 2 * kLanes <= k; i += 2 * kLanes)
    _mm512_storeu_si512(to + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + kLanes), _mm512_loadu_ps(x + i))));
  for (; i < k; i += kLanes)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first_lanes(k - i), x + i))));
}

FOVEA_BF16_CODE void pack_rows_natively(const GemmPack& p) {
  const __m512i order = _mm512_load_si512(kPairOrder.lanes);
  for (int64_t j = 0; j < p.width; j += 2 * kLanes) {  // a pair of lines at a time
    __m512 sum = _mm512_setzero_ps(), next = sum;
    const bool two = j + kLanes < p.width;
    float* out = p.out + j;
    for (int64_t k = 0; k < p.k; k += 2, out += p.width) {
      _mm512_storeu_si512(out, pair_of(p, k, j, order, sum));
      if (two) _mm512_storeu_si512(out + kLanes, pair_of(p, k, j + kLanes, order, next));
    }
    if (p.sums == nullptr) continue;
    const auto add = [&](int64_t at, __m512 s) FOVEA_BF16_CODE {
      const __mmask16 mask = first_lanes(p.columns - at);
      _mm512_mask_storeu_ps(p.sums + at, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, p.sums + at), s));
    };
    add(j, sum);
    if (two) add(j + kLanes, next);
  }
}

}  // namespace fovea

#else

namespace fovea {

void round_row_natively(const float*, int64_t, void*) { check(false, "no such conversion on this processor"); }
void pack_rows_natively(const GemmPack&) { check(false, "no such conversion on this processor"); }

}  // namespace fovea

#endif
