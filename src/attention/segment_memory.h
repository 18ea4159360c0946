// The memory that a Transformer-XL layer keeps of earlier segments: its inputs, cut to the last mem_len (Dai et al. 2019,
// 1901.02860, section 3.2). It belongs to the caller, and no gradient enters it.
#pragma once

#include "core/tensor.h"

namespace fovea {

// Rows [begin, end) of the memory followed by the segment.
struct MemoryCut {
  int64_t begin = 0, end = 0;
  int64_t rows() const { return end - begin; }
};

// The official program calls its updater with the two lengths swapped, which matters with an extended context only.
enum class MemoryLengths : uint8_t { kInOrder, kSwapped };

// What a layer remembers after a segment: the last `mem_len` rows before the `ext_len` newest, which the next segment sees
// again in its extended context.
MemoryCut memory_cut(int64_t memory, int64_t segment, int64_t mem_len, int64_t ext_len = 0,
                     MemoryLengths lengths = MemoryLengths::kInOrder);

// to (B, cut.rows(), C) = those rows of memory (B, M, C; may be empty) and segment (B, N, C). `to` is memory of its own.
void copy_memory(ConstTensor memory, ConstTensor segment, const MemoryCut& cut, const Tensor& to);

}  // namespace fovea
