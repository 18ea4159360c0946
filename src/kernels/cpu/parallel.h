// How the CPU kernels share work: pieces depend on sizes alone, never on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/context.h"

namespace fovea {

inline const float* f32(const void* p) { return static_cast<const float*>(p); }
inline float* f32(void* p) { return static_cast<float*>(p); }

// Below this many elements the hand-over to another thread costs more than it saves.
constexpr int64_t kSerialElements = 16384;

// Calls f(begin, end) on parts of [0, n); an item costs about `elements` elements of work.
template <class F>
void parallel_for(Context& context, int64_t n, int64_t elements, F&& f) {
  if (n <= 0) return;
  if (n * elements < kSerialElements) return f(0, n);
  context.pool().for_ranges(n, [&f](int64_t begin, int64_t end, int) { f(begin, end); });
}

// Calls f(begin, end) on parts of the flat range [0, count), cut at multiples of a block.
template <class F>
void parallel_elements(Context& context, int64_t count, F&& f) {
  constexpr int64_t kBlock = 1024;
  parallel_for(context, (count + kBlock - 1) / kBlock, kBlock,
               [&](int64_t begin, int64_t end) { f(begin * kBlock, std::min(end * kBlock, count)); });
}

// Rows cut into chunks whose column sums are kept apart and added in order: sums over rows that do not depend on threads.
struct RowChunks {
  int64_t rows = 0, size = 1, count = 0;

  explicit RowChunks(int64_t all_rows) : rows(all_rows) {
    constexpr int64_t kMostChunks = 64, kFewestRows = 16;
    size = std::max(kFewestRows, ((rows + kMostChunks - 1) / kMostChunks + 3) / 4 * 4);
    count = (rows + size - 1) / size;
  }
  int64_t begin(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return std::min(rows, (chunk + 1) * size); }
};

}  // namespace fovea
