// The matrix product of the CPU tables: one driver, and per instruction set the handful of functions below.
//
// A and B are brought to an operand's form before tiles see them. Where the processor multiplies bf16 or int8 itself, a step of k
// is four bytes of a row (gemm_tile.h); elsewhere the same rounded numbers are kept as floats, one a step, so that every table
// computes the same function.
//
// Layout of packed B: panels of 2 · lanes columns, each (steps of k, width) of four bytes, row-major; the last panel is
// `lanes` wide where that holds the remaining columns; columns past n are zero. int8: before each panel its columns' scales
// (float) and start values (int32), 2 · lanes of each.
#pragma once

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/isa.h"

namespace fovea {

enum class OperandForm : uint8_t {
  kF32,        // as it is
  kBF16,       // pairs of bfloat16
  kBF16Float,  // rounded to bfloat16, as floats
  kInt8,       // signed bytes; B
  kUint8,      // the same plus 128; A
  kInt8Float,  // the same integers as floats
};
constexpr int64_t elements_of_step(OperandForm form) {
  return form == OperandForm::kBF16 ? 2 : form == OperandForm::kInt8 || form == OperandForm::kUint8 ? 4 : 1;
}

// `rows` rows of A into scratch, row i at out + i * out_stride: row rows_index[i] of `a` (or i; zeros for -1), channels
// [k_begin, k_begin + k), normalised where there is a gamma, in the operand's form.
struct GemmStage {
  OperandForm form = OperandForm::kF32;
  int64_t rows = 0, k_begin = 0, k = 0;
  const float* a = nullptr;         // bfloat16 with a_bf16
  bool a_bf16 = false;
  bool a_uint8 = false;             // bytes, with
  const float* a_scale = nullptr;   //   the scales of a's rows
  int64_t a_stride = 0;
  int64_t first_row = 0;            // of the product; index, and rows of a without one, start here
  const int32_t* index = nullptr;   // of the whole product
  const float *gamma = nullptr, *beta = nullptr;  // normalised where these are not null, by
  const float *mean = nullptr, *rstd = nullptr;   //   these, or by the row's own, over row_k channels
  int64_t row_k = 0;
  float epsilon = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  float* row = nullptr;             // (k up to a whole vector; of rows that are normalised native_rows_kept) scratch for forms other than kF32
  float* scale = nullptr;           // (rows) of integers
};

// The end of a finished tile that does more than add: v -> v · scales + bias (integers in floats), v -> pre, act(v) (+ residual or
// c) -> c.
struct GemmFinish {
  const float* row_scale = nullptr;     // (rows) or null, and then the next two
  const float* column_scale = nullptr;  // (columns) of the tile, readable in whole vectors
  const float* bias = nullptr;          // (columns) likewise
  int64_t rows = 0, columns = 0;
  const float* tile = nullptr;  // (rows, tile_stride), readable up to tile_stride
  int64_t tile_stride = 0;
  float* pre = nullptr;         // of the tile's first element, or null
  int64_t pre_stride = 0;
  Activation activation = Activation::kNone;
  const int32_t* c_rows = nullptr;  // of the tile's first row, or null
  const float* addend = nullptr;    // first column; rows as those of c; or null
  int64_t addend_stride = 0;
  float* c = nullptr;               // first column; row 0 of the tile without c_rows, row 0 of the whole otherwise
  bool c_bf16 = false;              // c is bfloat16
  int64_t c_stride = 0;
};

// Columns [0, columns) and rows [0, k) of b, packed to `width` columns; of a transposed A in another form likewise.
struct GemmPack {
  OperandForm form = OperandForm::kF32;
  int64_t k = 0, columns = 0, width = 0;
  const float* b = nullptr;  // bfloat16 with b_bf16, not transposed
  int64_t b_stride = 0;
  bool b_transposed = false, b_bf16 = false;
  float* out = nullptr;
  float* sums = nullptr;          // (columns) += rows of b as they are stored, of rows in pairs; or null
  float* column_scale = nullptr;  // (width) of integers
  int32_t* start = nullptr;       // (width) of integers: what A's offset of 128 adds, taken back
  float* columns_scratch = nullptr;  // (width, steps + lanes) and a column for forms other than kF32
};

struct GemmBackend {
  int lanes = 0;     // floats of a vector
  int max_rows = 0;  // of a tile
  GemmTileKernel (*kernel)(int rows, int vectors, AOrder order, TileType type, TileEnd end) = nullptr;
  bool (*has)(TileType) = nullptr;  // such products by the processor itself
  bool (*ends)(AOrder order, TileType type, TileEnd end) = nullptr;  // a kernel can finish its tile so
  void (*stage)(const GemmStage&) = nullptr;
  void (*finish)(const GemmFinish&) = nullptr;
  void (*pack)(const GemmPack&) = nullptr;
  void (*add_rows)(const GemmPack&) = nullptr;  // sums alone
};

void run_gemm(const GemmBackend&, const GemmArgs&, Context&);
size_t gemm_packed_size(const GemmBackend&, ProductType, int64_t k, int64_t n);  // bytes
void run_gemm_pack(const GemmBackend&, ProductType, int64_t k, int64_t n, const float* b, int64_t b_stride, bool b_transposed,
                   float* packed, Context&);

// fill_gemm with the portable tile kernels, which fill_gemm falls back to where code cannot be generated. With a fused
// multiply-add in the instruction set both give the same bits.
void fill_gemm_portable(KernelTable&, Isa);

}  // namespace fovea
