// Counter-based random numbers (Philox-4x32-10, Salmon et al. 2011): a value is a pure function of (key, stream, index),
// so results depend neither on the number of threads nor on the order of evaluation, and resuming needs no hidden state.
#pragma once

#include <array>
#include <cstdint>

namespace fovea {

class Rng {
 public:
  explicit Rng(uint64_t seed = 0, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  // A generator whose values are independent of this one's; `tag` says for what.
  Rng fork(uint64_t tag) const;

  uint32_t bits(uint64_t index) const;     // 32 random bits at a position
  double uniform(uint64_t index) const;    // [0, 1) at a position
  double normal(uint64_t index) const;     // N(0, 1) at a position

  // Sequential use: the position is this object's own counter.
  uint32_t next_bits() { return bits(counter_++); }
  double next_uniform() { return uniform(counter_++); }
  double next_normal() { return normal(counter_++); }
  uint64_t next_below(uint64_t n);         // uniform in [0, n), n >= 1

  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }
  uint64_t counter() const { return counter_; }
  void set_counter(uint64_t c) { counter_ = c; }

 private:
  uint64_t seed_, stream_, counter_ = 0;
};

// Four 32-bit words for a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace fovea
