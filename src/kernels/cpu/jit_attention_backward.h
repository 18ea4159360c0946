// The inner part of softmax attention's backward as generated code: probabilities and their scores' gradients of a few queries against a
// panel of keys.
#pragma once

#include <cstdint>

namespace fovea {

inline constexpr int kGradientTileRows = 6;
inline constexpr int kGradientTileVectors = 4;  // of 16 keys

// With s[i, j] = q_i · k_j + start[i, j] - lse[i] (+ penalty where bit j of penalised[i] is set), in base 2:
// p[i, j] = 2^s[i, j], ds[i, j] = p[i, j] (g_i · v_j - delta[i]), and dbias[i, j] += ds[i, j].
struct GradientTile {
  const float *q = nullptr, *g = nullptr;              // (rows, depth), row_stride apart
  int64_t row_stride = 0;                              // strides in bytes
  const float *keys_t = nullptr, *values_t = nullptr;  // (depth, vectors * 16)
  int64_t depth = 0;
  const float* start = nullptr;         // row 0 of (rows, vectors * 16); -inf where there is no key
  int64_t start_stride = 0;             // 0: one row for all
  const float *lse = nullptr, *delta = nullptr;  // (rows); an lse of infinity: a row without keys
  const uint64_t* penalised = nullptr;  // (rows) or null
  float penalty = 0;
  float *p = nullptr, *ds = nullptr;    // (rows, vectors * 16), score_stride apart
  int64_t score_stride = 0;
  float* dbias = nullptr;               // likewise, or null
  int64_t dbias_stride = 0;
};

using GradientTileKernel = void (*)(const GradientTile*);

// For 1 to 6 rows and 1 to 4 vectors of keys. Null without AVX-512, for other sizes, and where the system refuses executable memory.
GradientTileKernel jit_gradient_tile(int rows, int vectors);

}  // namespace fovea
