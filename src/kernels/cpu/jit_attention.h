// The inner parts of softmax attention as generated code: weights of a few queries from their scores, softmax and all, in registers; and
// the values' weighted sums, over the keys of all panels at once.
#pragma once

#include <cstdint>

namespace fovea {

inline constexpr int kAttentionTileRows = 6;
inline constexpr int kAttentionTileVectors = 4;  // of 16 keys
inline constexpr int kAttentionRowKeys = 256;    // that a row of weights has room for

// Four bytes of an operand: what q and keys_t count in.
enum class AttentionElement : uint8_t { kFloat, kBf16Pair, kByteFour };
constexpr int64_t numbers_of(AttentionElement element) { return element == AttentionElement::kFloat ? 1 : element == AttentionElement::kBf16Pair ? 2 : 4; }

// With s[i, j] = scale · (q_i · k_j) + bias[i, j] (+ penalty where bit j of penalised[i] is set), in base 2:
// p[i, j] = 2^s[i, j], sum[i] += the same, lane by lane, before it is rounded.
// Of bytes, q having 128 for zero and keys_t being signed: s[i, j] = row_scale[i] · key_scale[j] · (start[j] + q_i · k_j) + bias[i, j] ..., where start takes
// q's zeros back.
struct AttentionScores {
  const float* const* q = nullptr;     // (rows) of head_dim elements each
  int64_t head_dim = 0;                // elements
  const float* keys_t = nullptr;       // (head_dim, vectors * 16) elements
  const float* bias = nullptr;         // row 0 of (rows, vectors * 16); -inf where there is no key
  int64_t bias_stride = 0;             // bytes; 0: one row for all
  const uint64_t* penalised = nullptr; // (rows) or null
  float scale = 1, penalty = 0;
  const int32_t* start = nullptr;      // (vectors * 16) of bytes alone, as
  const float* key_scale = nullptr;    // (vectors * 16) and
  const float* row_scale = nullptr;    // (rows)
  float greatest = 0, least = 0;       // nothing is done, and 0 returned, unless no score exceeds `greatest` and some score of each row
                                       // reaches `least`: outside that range powers of two need another reference point than zero
  void* p = nullptr;                   // (rows, kAttentionRowKeys) floats; bfloat16 where elements are no floats
  float* sum = nullptr;                // (rows, 16)
};

using AttentionScoresKernel = int64_t (*)(const AttentionScores*);

// For 1 to 6 rows, 1 to 4 vectors of keys and a head_dim in multiples of 4 elements, up to 128 numbers. Null without AVX-512 and what multiplies such
// elements (AVX512-BF16, VNNI besides), for other sizes, and where the system refuses executable memory.
AttentionScoresKernel jit_attention_scores(AttentionElement element, int rows, int vectors, int64_t head_dim);

// Sums over keys of p[i, key] · v[key].
struct AttentionValues {
  const void* p = nullptr;         // (rows, kAttentionRowKeys)
  const void* v = nullptr;         // floats: (keys) addresses of rows, read in whole vectors; bfloat16: (pairs of keys, head_dim in whole vectors) pairs
  int64_t count = 0;               // keys or pairs, one at least
  float* out = nullptr;            // (rows, head_dim in whole vectors) += the sums; or, where this is null:
  int64_t out_stride = 0;          // bytes
  void* const* rows = nullptr;     // (rows) of head_dim numbers, floats or bfloat16 as p's are, = the sums times factor
  const float* factor = nullptr;   // (rows)
};

using AttentionValuesKernel = void (*)(const AttentionValues*);

inline constexpr int kMostValueRows = 12;

// For 1 to 12 rows and a head_dim of up to 128 numbers, a multiple of 4 floats or of 8 bfloat16. Null as above; bytes have none.
AttentionValuesKernel jit_attention_values(AttentionElement element, int rows, int64_t head_dim);

}  // namespace fovea
