// One register tile of the matrix product: the contract between the generated kernels (jit.h), the portable ones and the
// driver that cuts a product into tiles.
//
// k is counted in steps of four bytes of a row of A: one f32, two bf16 or four int8, which a kernel multiplies with as many
// rows of B at once. So tiles of all types have the same shape and the same memory layout.
#pragma once

#include <cstdint>

#include "kernels/kernel_table.h"

namespace fovea {

// c[i, j] = end(start[j] + sum over k of a[i, k] · b[k, j]) (+ addend[i, j]), the sum taken in ascending k by one accumulator
// per element, or one for each run of it (sums_in_runs), and `start` its first term or its last by type and end: so a result depends
// neither on the height of the tile nor on the thread that computes it.
// int8: end((start[j] + sum) · row_scale[i] · column_scale[j] + bias[j]), with start in int32, a unsigned with 128 for zero.
struct GemmTile {
  const float* a = nullptr;
  int64_t a_stride = 0;  // bytes; what it separates is said by AOrder
  const float* b = nullptr;  // (k, vectors * lanes), packed and zero padded
  int64_t k = 0;
  int64_t run = 0;                // steps of k that are summed apart (sums_in_runs); a multiple of four
  const float* start = nullptr;   // (vectors * lanes)
  const float* addend = nullptr;  // (rows, columns) or null; may be c
  int64_t addend_stride = 0;      // bytes
  float* c = nullptr;             // with TileEnd::bf16 bfloat16
  int64_t c_stride = 0;  // bytes
  float* pre = nullptr;           // keeps what there is before the activation, where the end has one; or null
  int64_t pre_stride = 0;  // bytes
  int64_t columns = 0;   // of addend and c; from 1 to vectors * lanes
  int64_t rows = 0;      // generated kernels know it already
  const float* row_scale = nullptr;     // int8: (rows)
  const float* column_scale = nullptr;  // int8: (vectors * lanes)
  const float* bias = nullptr;          // int8: (vectors * lanes)
  const void* prefetch = nullptr;  // the next panel's lines, brought to the second-level cache; never dereferenced
  int64_t prefetch_step = 0;       // bytes per four steps of k
};

enum class AOrder : uint8_t {
  kRows,     // k is contiguous, a_stride lies between rows
  kColumns,  // rows are contiguous, a_stride lies between steps of k
};

// Lines from GemmTile::prefetch on that a kernel asks for in four steps of k: the sooner, the less a wait for the memory shows.
inline constexpr int kPrefetchLines = 4;

enum class TileType : uint8_t { kF32, kBF16, kInt8 };

// The rounding of long sums in f32 would show beside that of libraries whose sums are short: runs of kSumRun steps are summed apart, then
// added in their order. Each begins at zero, `start` being added like a run before the first: products are mostly smaller than a bias, and so
// are then the rounding errors of their sum. Operands in columns come in short blocks anyway, and those that are rounded hide it.
inline constexpr int64_t kSumRun = 128;
inline constexpr int64_t kFineSumRun = 16;  // GemmArgs::fine_sums; about the square root of usual widths, which rounds least
constexpr bool sums_in_runs(AOrder order, TileType type) { return order == AOrder::kRows && type == TileType::kF32; }

// What a generated kernel does with finished sums; where it does something, there is no addend.
struct TileEnd {
  Activation activation = Activation::kNone;
  bool bf16 = false;  // c is bfloat16
};

using GemmTileKernel = void (*)(const GemmTile*);

inline constexpr int kGemmMaxRows = 14;  // of any tile

}  // namespace fovea
