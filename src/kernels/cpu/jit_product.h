// Generated code for the small products of attention's tiles.
#pragma once

#include <cstdint>

namespace fovea {

// c (rows, vectors) = init + a · b. a is (rows, depth) with a_stride between rows, or with columns (depth, rows) with a_stride between
// the rows of that. b is (depth, vectors). A null init is zeros; its stride may be zero. Strides count floats.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  int64_t depth;
  const float* init;
  int64_t init_stride;
  float* c;
  int64_t c_stride;
};
using ProductFunction = void (*)(const Product&);

inline constexpr int kMostProductRows = 12;
inline constexpr int kMostProductVectors = 4;  // of 16 floats
// Rows of a tile of so many vectors.
constexpr int product_rows(int vectors) { return vectors <= 2 ? 12 : vectors == 3 ? 8 : 6; }

// Null without AVX-512 and where the system refuses executable memory.
ProductFunction jit_product(bool columns, int rows, int vectors);

}  // namespace fovea
