// The inner part of softmax attention as generated code: scores, softmax and weighted values of a few queries against a block of keys,
// all of it in registers. In bfloat16 the weighted values are a tile of their own, over the keys of all panels at once.
#pragma once

#include <cstdint>

namespace fovea {

inline constexpr int kAttentionTileRows = 6;
inline constexpr int kAttentionTileVectors = 4;  // of 16 keys

// With s[i, j] = scale · (q_i · k_j) + bias[i, j] (+ penalty where bit j of penalised[i] is set), in base 2:
// out[i] += sum over j of 2^s[i, j] · v_j, sum[i] += the same without v, lane by lane.
struct AttentionTile {
  const float* const* q = nullptr;     // (rows) of head_dim floats each
  int64_t head_dim = 0;
  const float* keys_t = nullptr;       // (head_dim, vectors * 16)
  const float* bias = nullptr;         // row 0 of (rows, vectors * 16); -inf where there is no key
  int64_t bias_stride = 0;             // bytes; 0: one row for all
  const float* const* v = nullptr;     // (keys) of head_dim floats each, read in whole vectors
  int64_t keys = 0;                    // up to vectors * 16
  const uint64_t* penalised = nullptr; // (rows) or null
  float scale = 1, penalty = 0;
  const int32_t* start = nullptr;      // (vectors * 16) of jit_byte_scores alone, as
  const float* key_scale = nullptr;    // (vectors * 16) and
  const float* row_scale = nullptr;    // (rows)
  float greatest = 0, least = 0;       // nothing is done, and 0 returned, unless no score exceeds `greatest` and some score of each row
                                       // reaches `least`: outside that range powers of two need another reference point than zero
  float* p = nullptr;                  // (rows, vectors * 16) scratch
  float* out = nullptr;                // (rows, head_dim) in whole vectors
  int64_t out_stride = 0;              // bytes
  float* sum = nullptr;                // (rows, 16)
};

using AttentionTileKernel = int64_t (*)(const AttentionTile*);

// For 1 to 6 rows, 1 to 4 vectors of keys and a head_dim of up to 128, a multiple of 4. Null without AVX-512, for other sizes, and where
// the system refuses executable memory.
AttentionTileKernel jit_attention_tile(int rows, int vectors, int64_t head_dim);

inline constexpr int kBf16RowKeys = 256;  // that a row of p has room for

// The scores' half of such a tile on pairs of bfloat16, each of which counts as one element of q and keys_t: a head_dim of up to 64 of them, a
// multiple of 4. p is (rows, kBf16RowKeys) bfloat16; v, keys, out and out_stride are not looked at. Null without AVX512-BF16 as well.
AttentionTileKernel jit_bf16_scores(int rows, int vectors, int64_t head_dim);

// The same on fours of bytes, each of which counts as one element: q with 128 for zero, keys_t signed. s[i, j] = row_scale[i] · key_scale[j] · (start[j] +
// q_i · k_j) + bias[i, j], where start takes q's zeros back. A head_dim of up to 32 fours, a multiple of 4. Null without AVX512-VNNI as well.
AttentionTileKernel jit_byte_scores(int rows, int vectors, int64_t head_dim);

// The other half: sums over pairs of keys of p[i, pair] · v[pair].
struct Bf16Values {
  const void* p = nullptr;           // (rows, kBf16RowKeys)
  const void* v = nullptr;           // (pairs, head_dim in whole vectors) pairs of bfloat16
  int64_t pairs = 0;                 // of keys, one at least
  float* out = nullptr;              // (rows, head_dim in whole vectors) += the sums; or, where this is null:
  int64_t out_stride = 0;            // bytes
  uint16_t* const* rows = nullptr;   // (rows) of head_dim bfloat16 = the sums times factor
  const float* factor = nullptr;     // (rows)
};

using Bf16ValuesKernel = void (*)(const Bf16Values*);

inline constexpr int kMostValueRows = 12;

// For 1 to 12 rows and a head_dim of bfloat16 that jit_bf16_scores has in pairs.
Bf16ValuesKernel jit_bf16_values(int rows, int64_t head_dim);

}  // namespace fovea
