#include "kernels/cpu/gemm_int8.h"

#include "core/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#define FOVEA_INT8_CODE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace fovea {

namespace {

constexpr int64_t kOfVector = 16, kOfPair = 2 * kOfVector, kOfStore = 4 * kOfVector;
// Added to a level, it leaves level + 128, rounded to even, in the lowest byte of the sum.
constexpr float kToByte = 0x1.8p23F + 128;

template <class Mask>
Mask lanes_of(int64_t count) {
  constexpr int64_t kLanes = 8 * sizeof(Mask);
  return count >= kLanes ? static_cast<Mask>(~Mask{0}) : static_cast<Mask>((uint64_t{1} << std::max<int64_t>(count, 0)) - 1);
}

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

// Sums with kToByte of a row's elements, which come in twos of vectors, as words in order. Without their signs numbers are in the order of
// their bits, and what is not finite comes last: the greatest magnitude is found as such.
struct FloatRow {
  const float* x;

  FOVEA_INT8_CODE uint32_t greatest(int64_t k) const {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most[4] = {};
    int64_t i = 0;
    for (; i + kOfStore <= k; i += kOfStore)
      for (int v = 0; v < 4; ++v) most[v] = _mm512_max_epu32(most[v], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + v * kOfVector)));
    if (i + kOfPair <= k) {
      for (int v = 0; v < 2; ++v) most[v] = _mm512_max_epu32(most[v], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + v * kOfVector)));
      i += kOfPair;
    }
    for (; i < k; i += kOfVector)
      most[2] = _mm512_max_epu32(most[2], _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi32(lanes_of<__mmask16>(k - i), x + i)));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3])));
  }
  FOVEA_INT8_CODE void load(int64_t i, __m512& a, __m512& b) const {
    a = _mm512_loadu_ps(x + i);
    b = _mm512_loadu_ps(x + i + kOfVector);
  }
  FOVEA_INT8_CODE void load(int64_t i, int64_t count, __m512& a, __m512& b) const {
    a = _mm512_maskz_loadu_ps(lanes_of<__mmask16>(count), x + i);
    b = _mm512_maskz_loadu_ps(lanes_of<__mmask16>(count - kOfVector), x + i + kOfVector);
  }
  FOVEA_INT8_CODE static __m512i words(__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, _mm512_load_si512(kLowWords.places), b); }
};

// Even elements in the first, odd ones in the second.
struct Bfloat16Row {
  const uint16_t* x;

  FOVEA_INT8_CODE uint32_t greatest(int64_t k) const {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i most[2] = {};
    int64_t i = 0;
    for (; i + kOfStore <= k; i += kOfStore)
      for (int v = 0; v < 2; ++v) most[v] = _mm512_max_epu16(most[v], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + v * kOfPair)));
    if (i + kOfPair <= k) {
      most[0] = _mm512_max_epu16(most[0], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i)));
      i += kOfPair;
    }
    if (i < k) most[1] = _mm512_max_epu16(most[1], _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi16(lanes_of<__mmask32>(k - i), x + i)));
    const __m512i pairs = _mm512_max_epu16(most[0], most[1]);
    return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_slli_epi32(pairs, 16), _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
  }
  FOVEA_INT8_CODE static void widen(__m512i both, __m512& a, __m512& b) {
    a = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    b = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  FOVEA_INT8_CODE void load(int64_t i, __m512& a, __m512& b) const { widen(_mm512_loadu_si512(x + i), a, b); }
  FOVEA_INT8_CODE void load(int64_t i, int64_t count, __m512& a, __m512& b) const {
    widen(_mm512_maskz_loadu_epi16(lanes_of<__mmask32>(count), x + i), a, b);
  }
  FOVEA_INT8_CODE static __m512i words(__m512i a, __m512i b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)); }
};

template <class Row>
FOVEA_INT8_CODE inline void write_levels(const Row& row, float inverse_scale, int64_t k, uint8_t* out) {
  const __m512 inverse = _mm512_set1_ps(inverse_scale), to_byte = _mm512_set1_ps(kToByte);
  const __m512i order = _mm512_load_si512(kByteOrder.fours);
  const auto words = [&](__m512 a, __m512 b) FOVEA_INT8_CODE {
    return Row::words(_mm512_castps_si512(_mm512_fmadd_ps(a, inverse, to_byte)), _mm512_castps_si512(_mm512_fmadd_ps(b, inverse, to_byte)));
  };
  const auto bytes = [&](__m512i first, __m512i second) FOVEA_INT8_CODE { return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second)); };
  __m512 a, b, c, d;
  int64_t i = 0;
  for (; i + kOfStore <= k; i += kOfStore) {
    row.load(i, a, b);
    row.load(i + kOfPair, c, d);
    _mm512_storeu_si512(out + i, bytes(words(a, b), words(c, d)));
  }
  const auto half = [&](__m512i first) FOVEA_INT8_CODE { return _mm512_castsi512_si256(bytes(first, first)); };
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

template <class Row>
FOVEA_INT8_CODE float to_bytes(const Row& row, int64_t k, uint8_t* out) {
  constexpr uint32_t kInfinity = 0x7f800000;
  const uint32_t bits = row.greatest(k);
  if (bits >= kInfinity) {
    std::memset(out, 0, static_cast<size_t>(k));
    return std::numeric_limits<float>::quiet_NaN();
  }
  const auto greatest = std::bit_cast<float>(bits);
  write_levels(row, greatest > 0 ? kMostLevel / greatest : 0.0f, k, out);
  return greatest / kMostLevel;
}

}  // namespace

FOVEA_INT8_CODE float row_to_bytes(const float* x, int64_t k, uint8_t* out) { return to_bytes(FloatRow{x}, k, out); }
FOVEA_INT8_CODE float row_to_bytes(const uint16_t* x, int64_t k, uint8_t* out) { return to_bytes(Bfloat16Row{x}, k, out); }

FOVEA_INT8_CODE void levels_to_bytes(const float* x, float inverse, int64_t k, uint8_t* out) { write_levels(FloatRow{x}, inverse, k, out); }

}  // namespace fovea

#else

namespace fovea {

float row_to_bytes(const float*, int64_t, uint8_t*) { fail("integer tiles need a processor that multiplies bytes"); }
float row_to_bytes(const uint16_t*, int64_t, uint8_t*) { fail("integer tiles need a processor that multiplies bytes"); }
void levels_to_bytes(const float*, float, int64_t, uint8_t*) { fail("integer tiles need a processor that multiplies bytes"); }

}  // namespace fovea

#endif
