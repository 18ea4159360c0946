#include "kernels/cpu/attention_bf16.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define FOVEA_PAIR_CODE __attribute__((target("avx512f,avx512bw,avx512vl")))

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

FOVEA_PAIR_CODE void pack_key_pairs(const float* const* rows, int64_t count, int64_t head_dim, float* out, int64_t stride) {
  constexpr int kLanes = 16;
  const int64_t pairs = head_dim / 2;
  for (int64_t first = 0; first < pairs; first += kLanes, out += kLanes * stride) {
    const int64_t lanes = std::min<int64_t>(kLanes, pairs - first);
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

void pack_value_pairs(const float* const*, int64_t, int64_t, float*) { check(false, "no such pairs on this processor"); }

}  // namespace fovea

#endif
