#include "kernels/cpu/gemm_int8.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#define FOVEA_INT8_CODE __attribute__((target("avx512f,avx512bw,avx512vl")))

namespace fovea {

namespace {

constexpr int64_t kOfVector = 16, kOfStore = 4 * kOfVector;
constexpr float kMostLevel = 127;

__mmask16 lanes_of(int64_t count) { return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, kOfVector)) - 1); }

// Packing works in blocks of 128 bits, so a block of each of four vectors lies beside those of the others.
alignas(64) constexpr int32_t kByteOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

struct FloatRow {
  const float* x;
  FOVEA_INT8_CODE __m512 load(int64_t i) const { return _mm512_loadu_ps(x + i); }
  FOVEA_INT8_CODE __m512 load(int64_t i, __mmask16 there) const { return _mm512_maskz_loadu_ps(there, x + i); }
  // The largest magnitude as bits: without their signs numbers are in the order of these, and what is not finite comes last.
  FOVEA_INT8_CODE uint32_t greatest(int64_t k) const {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most[4] = {};
    int64_t i = 0;
    for (; i + kOfStore <= k; i += kOfStore)
      for (int v = 0; v < 4; ++v) most[v] = _mm512_max_epu32(most[v], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + v * kOfVector)));
    for (; i < k; i += kOfVector)
      most[0] = _mm512_max_epu32(most[0], _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi32(lanes_of(k - i), x + i)));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3])));
  }
};

struct Bfloat16Row {
  const uint16_t* x;
  FOVEA_INT8_CODE static __m512 widened(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
  FOVEA_INT8_CODE __m512 load(int64_t i) const { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))); }
  FOVEA_INT8_CODE __m512 load(int64_t i, __mmask16 there) const { return widened(_mm256_maskz_loadu_epi16(there, x + i)); }
  FOVEA_INT8_CODE uint32_t greatest(int64_t k) const {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i most[2] = {};
    int64_t i = 0;
    for (; i + kOfStore <= k; i += kOfStore)
      for (int v = 0; v < 2; ++v) most[v] = _mm512_max_epu16(most[v], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + v * 2 * kOfVector)));
    for (; i < k; i += 2 * kOfVector) {
      const auto there = static_cast<__mmask32>((uint64_t{1} << std::min<int64_t>(k - i, 2 * kOfVector)) - 1);
      most[0] = _mm512_max_epu16(most[0], _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi16(there, x + i)));
    }
    const __m512i pairs = _mm512_max_epu16(most[0], most[1]);
    return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_slli_epi32(pairs, 16), _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
  }
};

FOVEA_INT8_CODE inline __m512i bytes_of(__m512 v0, __m512 v1, __m512 v2, __m512 v3) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(v0), _mm512_cvtps_epi32(v1)), high = _mm512_packs_epi32(_mm512_cvtps_epi32(v2), _mm512_cvtps_epi32(v3));
  const __m512i packed = _mm512_permutexvar_epi32(_mm512_load_si512(kByteOrder), _mm512_packs_epi16(low, high));
  return _mm512_xor_si512(packed, _mm512_set1_epi8(static_cast<char>(0x80)));
}

template <class Row>
FOVEA_INT8_CODE float to_bytes(const Row& row, int64_t k, uint8_t* out) {
  constexpr uint32_t kInfinity = 0x7f800000;
  const uint32_t bits = row.greatest(k);
  if (bits >= kInfinity) {
    std::memset(out, 0, static_cast<size_t>(k));
    return std::numeric_limits<float>::quiet_NaN();
  }
  float greatest;
  std::memcpy(&greatest, &bits, sizeof(greatest));
  const __m512 inverse = _mm512_set1_ps(greatest > 0 ? kMostLevel / greatest : 0.0f);
  int64_t i = 0;
  const auto level = [&](int64_t v) FOVEA_INT8_CODE { return _mm512_mul_ps(row.load(i + v * kOfVector), inverse); };
  for (; i + kOfStore <= k; i += kOfStore) _mm512_storeu_si512(out + i, bytes_of(level(0), level(1), level(2), level(3)));
  if (i < k) {
    const auto rest = [&](int64_t v) FOVEA_INT8_CODE { return _mm512_mul_ps(row.load(i + v * kOfVector, lanes_of(k - i - v * kOfVector)), inverse); };
    const int64_t behind = (k - i + kOfVector - 1) / kOfVector * kOfVector;
    _mm512_mask_storeu_epi8(out + i, behind == kOfStore ? ~__mmask64{0} : (__mmask64{1} << behind) - 1, bytes_of(rest(0), rest(1), rest(2), rest(3)));
  }
  return greatest / kMostLevel;
}

}  // namespace

FOVEA_INT8_CODE float row_to_bytes(const float* x, int64_t k, uint8_t* out) { return to_bytes(FloatRow{x}, k, out); }
FOVEA_INT8_CODE float row_to_bytes(const uint16_t* x, int64_t k, uint8_t* out) { return to_bytes(Bfloat16Row{x}, k, out); }

}  // namespace fovea

#else

namespace fovea {

float row_to_bytes(const float*, int64_t, uint8_t*) { fail("integer tiles need a processor that multiplies bytes"); }
float row_to_bytes(const uint16_t*, int64_t, uint8_t*) { fail("integer tiles need a processor that multiplies bytes"); }

}  // namespace fovea

#endif
