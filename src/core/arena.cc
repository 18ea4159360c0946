#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace fovea {

namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kFirstBlock = size_t{1} << 20;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

void* map(size_t bytes) {  // zero-filled
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(p != MAP_FAILED, "out of memory: the system refused {} MiB; use a smaller batch, image size or model", bytes >> 20);
  if (bytes >= kHugePage) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

}  // namespace

Arena::~Arena() {
  for (const Block& b : blocks_) munmap(b.data, b.size);
}

void Arena::add_block(size_t at_least) {
  const size_t size = round_up(std::max({at_least, kFirstBlock, std::min(reserved(), size_t{256} << 20)}),
                               at_least >= kHugePage ? kHugePage : size_t{4096});
  blocks_.push_back({static_cast<char*>(map(size)), size});
  ++system_allocations_;
}

void* Arena::take(size_t bytes) {
  bytes = std::max(round_up(bytes, kAlign), kAlign);
  while (block_ < blocks_.size() && offset_ + bytes > blocks_[block_].size) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    add_block(bytes);
    offset_ = 0;
  }
  void* p = blocks_[block_].data + offset_;
  offset_ += bytes;
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  high_water_ = std::max(high_water_, used_);
  return p;
}

Tensor Arena::take(const Shape& shape, DType dtype) {
  int64_t bytes = 0;
  require(!__builtin_mul_overflow(shape.elements(), static_cast<int64_t>(size_of(dtype)), &bytes),
          "a tensor of shape {} does not fit in memory", shape);
  return {take(static_cast<size_t>(bytes)), shape, dtype};
}

void Arena::release(const Mark& mark) {
  block_ = mark.block;
  offset_ = mark.offset;
  used_ = mark.used;
  if (used_ == 0 && blocks_.size() > 1) reset();
}

void Arena::reset() {
  block_ = offset_ = used_ = 0;
  if (blocks_.size() > 1) {
    for (const Block& b : blocks_) munmap(b.data, b.size);
    blocks_.clear();
    add_block(high_water_);
  }
}

size_t Arena::reserved() const {
  size_t n = 0;
  for (const Block& b : blocks_) n += b.size;
  return n;
}

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  size_ = round_up(bytes, bytes >= kHugePage ? kHugePage : size_t{4096});
  data_ = map(size_);
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace fovea
