// Machine code generated at run time: compilers spill the accumulators of large register tiles, a generator does not.
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/isa.h"

namespace fovea {

// The kernel of a tile of `rows` x (`vectors` vectors): up to 14 x 2 for AVX-512, 6 x 2 for AVX2. Generated at the first
// call for a shape, by any thread; later calls are one load. Null where there is no generator (other instruction sets),
// where the processor has no instruction for the type (bf16 and int8: AVX-512 alone; int8: rows of A alone), or where the system
// refuses executable memory.
// An end that does something: AVX-512 alone, and bf16 where the processor has such instructions.
GemmTileKernel jit_gemm_kernel(Isa isa, int rows, int vectors, AOrder order, TileType type = TileType::kF32, TileEnd end = {});

// Loops of independent multiply-accumulates on registers, which measure what the arithmetic units can do.
enum class PeakLoop : uint8_t { kSseMulAdd, kAvx2Fma, kAvx512Fma, kAvx512Bf16, kAvx512Int8 };

struct PeakCode {
  void (*run)(int64_t iterations) = nullptr;  // null when the processor has no such instruction or the system refuses code
  int64_t operations = 0;                     // additions and multiplications per iteration
};
PeakCode jit_peak_loop(PeakLoop loop);

}  // namespace fovea
