#include "kernels/cpu/attention_pack.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define FOVEA_PAIR_CODE __attribute__((target("avx512f,avx512bw,avx512vl")))
#define FOVEA_BYTE_CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace fovea {

namespace {

// Words of two vectors in turn: from word 0 on, and from word 16 on.
struct Interleaving {
  alignas(64) uint16_t words[2][32];
  constexpr Interleaving() : words() {
    for (uint16_t half = 0; half < 2; ++half)
      for (uint16_t i = 0; i < 16; ++i) {
        words[half][2 * i] = static_cast<uint16_t>(16 * half + i);
        words[half][2 * i + 1] = static_cast<uint16_t>(32 + 16 * half + i);
      }
  }
};
constexpr Interleaving kInterleaving;

}  // namespace

FOVEA_PAIR_CODE void transpose_words(const float* const* rows, int64_t count, int64_t words, float* out, int64_t stride) {
  constexpr int kLanes = 16;
  for (int64_t first = 0; first < words; first += kLanes, out += kLanes * stride) {
    const int64_t lanes = std::min<int64_t>(kLanes, words - first);
    const auto mask = static_cast<__mmask16>((1u << lanes) - 1);
    __m512 a[kLanes], b[kLanes];
    for (int i = 0; i < kLanes; ++i) a[i] = i < count ? _mm512_maskz_loadu_ps(mask, rows[i] + first) : _mm512_setzero_ps();
    // Transposed in blocks of 4 x 4 first: vector i of such a block then holds column i of each.
    for (int i = 0; i < kLanes; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < kLanes; i += 4)
      for (int j = 0; j < 2; ++j) {
        const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + 2 + j]);
        a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
        a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
      }
    for (int column = 0; column < 4; ++column) {
      const __m512 upper_low = _mm512_shuffle_f32x4(a[column], a[4 + column], 0x88), upper_high = _mm512_shuffle_f32x4(a[column], a[4 + column], 0xdd);
      const __m512 lower_low = _mm512_shuffle_f32x4(a[8 + column], a[12 + column], 0x88), lower_high = _mm512_shuffle_f32x4(a[8 + column], a[12 + column], 0xdd);
      b[column] = _mm512_shuffle_f32x4(upper_low, lower_low, 0x88);
      b[4 + column] = _mm512_shuffle_f32x4(upper_high, lower_high, 0x88);
      b[8 + column] = _mm512_shuffle_f32x4(upper_low, lower_low, 0xdd);
      b[12 + column] = _mm512_shuffle_f32x4(upper_high, lower_high, 0xdd);
    }
    for (int i = 0; i < lanes; ++i) _mm512_storeu_ps(out + i * stride, b[i]);
  }
}

FOVEA_BYTE_CODE void pack_byte_keys(const float* const* rows, int64_t count, int64_t words, float* out, int64_t stride, int32_t* start) {
  transpose_words(rows, count, words, out, stride);
  const __m512i zero = _mm512_set1_epi32(static_cast<int>(0x80808080u));
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < words; ++i) {
    const __m512i fours = _mm512_xor_si512(zero, _mm512_loadu_si512(out + i * stride));
    _mm512_storeu_si512(out + i * stride, fours);
    sum = _mm512_dpbusd_epi32(sum, zero, fours);
  }
  _mm512_storeu_si512(start, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

FOVEA_PAIR_CODE void add_lane_sums(const float* vectors, int64_t rows, float* sum) {
  const auto folded = [&](int64_t row) FOVEA_PAIR_CODE {
    const __m512 v = _mm512_loadu_ps(vectors + 16 * std::min(row, rows - 1));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  };
  const auto pairs = [](__m128 a, __m128 b) FOVEA_PAIR_CODE { return _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)); };
  for (int64_t i = 0; i < rows; i += 4) {
    const __m128 ab = pairs(folded(i), folded(i + 1)), cd = pairs(folded(i + 2), folded(i + 3));
    const __m128 totals = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    const auto mask = static_cast<__mmask8>(rows - i >= 4 ? 0xf : (1u << (rows - i)) - 1);
    _mm_mask_storeu_ps(sum + i, mask, _mm_add_ps(_mm_maskz_loadu_ps(mask, sum + i), totals));
  }
}

FOVEA_PAIR_CODE void pack_value_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out) {
  constexpr int64_t kWords = 32;
  const __m512i lower = _mm512_load_si512(kInterleaving.words[0]), upper = _mm512_load_si512(kInterleaving.words[1]);
  for (int64_t i = 0; i < count; i += 2) {
    const bool two = i + 1 < count;
    for (int64_t c = 0; c < head_dim; c += kWords) {
      const int64_t words = std::min(kWords, head_dim - c);
      const auto mask = static_cast<__mmask32>(words == kWords ? ~uint32_t{0} : (uint32_t{1} << words) - 1);
      const __m512i a = _mm512_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(rows[i]) + c);
      const __m512i b = two ? _mm512_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(rows[i + 1]) + c) : _mm512_setzero_si512();
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, lower, b));
      out += kWords / 2;
      if (words <= kWords / 2) continue;
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, upper, b));
      out += kWords / 2;
    }
  }
}

}  // namespace fovea

#else

namespace fovea {

void transpose_words(const float* const*, int64_t, int64_t, float*, int64_t) { check(false, "no such vectors on this processor"); }
void pack_byte_keys(const float* const*, int64_t, int64_t, float*, int64_t, int32_t*) { check(false, "no such integers on this processor"); }
void add_lane_sums(const float*, int64_t, float*) { check(false, "no such vectors on this processor"); }
void pack_value_pairs(const float* const*, int64_t, int64_t, float*) { check(false, "no such pairs on this processor"); }

}  // namespace fovea

#endif
