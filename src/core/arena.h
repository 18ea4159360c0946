// Bump memory for activations and scratch: 64-byte aligned, huge pages, released in the reverse order of taking.
// After the first step the blocks are merged into one of the peak's size, so later steps allocate nothing.
#pragma once

#include <cstddef>
#include <vector>

#include "core/tensor.h"

namespace fovea {

class Arena {
 public:
  struct Mark {
    size_t block = 0, offset = 0, used = 0;
  };

  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* take(size_t bytes);                      // uninitialised, aligned to 64 bytes
  Tensor take(const Shape& shape, DType dtype);  // uninitialised
  template <class T>
  T* take(int64_t count) { return static_cast<T*>(take(static_cast<size_t>(count) * sizeof(T))); }

  Mark mark() const { return {block_, offset_, used_}; }
  void release(const Mark& mark);  // everything taken since `mark` may be overwritten from now on
  void reset();                    // releases everything; merges blocks when there are several

  size_t used() const { return used_; }          // bytes taken now
  size_t peak() const { return peak_; }          // largest used() since the last reset_peak()
  void reset_peak() { peak_ = used_; }
  size_t reserved() const;                       // bytes held from the system
  int64_t system_allocations() const { return system_allocations_; }  // a steady-state step does not raise it

 private:
  struct Block {
    char* data;
    size_t size;
  };
  void add_block(size_t at_least);

  std::vector<Block> blocks_;
  size_t block_ = 0, offset_ = 0, used_ = 0, peak_ = 0, high_water_ = 0;
  int64_t system_allocations_ = 0;
};

// Releases what was taken from an arena during its lifetime.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

// A zero-filled, page-aligned block with huge pages where it is large: slabs of parameters, packed weights.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fovea
