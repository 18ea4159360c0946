// What Transformer-XL's forward keeps: shared by the two files of the mechanism.
#pragma once

#include "attention/transformer_xl.h"

namespace fovea {

// Heads' rows with their norm, where there is one.
struct TransformerXlRows {
  Tensor rows;        // first element of (B, n, H, D) inside a fused buffer
  int64_t count = 0, token_stride = 0;
  Tensor normed, mean, rstd;  // (B, n, H, D), (B n H), (B n H)
};

struct TransformerXlAttention::Record {
  AttentionInputs in;
  int64_t memory = 0;             // M
  Tensor qkv, memory_kv;          // (B, N, 3, H, D), (B, M, 2, H, D)
  TransformerXlRows q, k, memory_k;
  const TokenGroups* groups = nullptr;
  int64_t x_first = 0, y_first = 0;
  ConstTensor x_positions, y_positions;  // what r_net projected
  const std::vector<int32_t>* learned = nullptr;  // row of r_emb for each distance
  Tensor x_rows, y_rows, x_bias;  // (distances, H, D), likewise, (distances, H)
  Tensor lse, out;                // (B, H, N), (B, N, H D)
};

}  // namespace fovea
