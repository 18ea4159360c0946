#include "attention/segment_memory.h"

#include <algorithm>
#include <cstring>

namespace fovea {

MemoryCut memory_cut(int64_t memory, int64_t segment, int64_t mem_len, int64_t ext_len, MemoryLengths lengths) {
  require(memory >= 0 && segment >= 0 && mem_len >= 0 && ext_len >= 0, "a memory of {} rows, a segment of {}, mem_len {}, ext_len {}: no "
          "length is negative", memory, segment, mem_len, ext_len);
  const int64_t end = lengths == MemoryLengths::kInOrder ? memory + std::max<int64_t>(0, segment - ext_len)
                                                         : segment + std::max<int64_t>(0, memory - ext_len);
  return {std::max<int64_t>(0, end - mem_len), end};
}

void copy_memory(ConstTensor memory, ConstTensor segment, const MemoryCut& cut, const Tensor& to) {
  const int64_t batch = segment.dim(0), before = memory.empty() ? 0 : memory.dim(1), channels = segment.last();
  require_shape(to, Shape{batch, cut.rows(), channels}, "segment memory");
  check(cut.begin >= 0 && cut.end <= before + segment.dim(1), "rows [{}, {}) of {} + {}", cut.begin, cut.end, before, segment.dim(1));
  const auto row = static_cast<size_t>(channels) * size_of(to.dtype);
  char* next = static_cast<char*>(to.data);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = cut.begin; t < cut.end; ++t) {
      const ConstTensor& from = t < before ? memory : segment;
      const int64_t at = t < before ? b * before + t : b * segment.dim(1) + t - before;
      std::memcpy(next, static_cast<const char*>(from.data) + static_cast<size_t>(at) * row, row);
      next += row;
    }
  }
}

}  // namespace fovea
