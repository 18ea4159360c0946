#include "core/rng.h"

#include <cmath>
#include <numbers>

namespace fovea {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return c;
}

namespace {

std::array<uint32_t, 4> block(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(stream),
                 static_cast<uint32_t>(stream >> 32)},
                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

double to_unit(uint32_t high, uint32_t low) {  // 53 bits
  return static_cast<double>((static_cast<uint64_t>(high) << 21) ^ (low >> 11)) * 0x1p-53;
}

}  // namespace

Rng Rng::fork(uint64_t tag) const {
  const auto b = block(seed_ ^ 0x5851F42D4C957F2DULL, stream_, tag);
  return Rng(seed_, (static_cast<uint64_t>(b[0]) << 32 | b[1]) ^ (static_cast<uint64_t>(b[2]) << 16));
}

uint32_t Rng::bits(uint64_t index) const { return block(seed_, stream_, index)[0]; }

double Rng::uniform(uint64_t index) const {
  const auto b = block(seed_, stream_, index);
  return to_unit(b[0], b[1]);
}

double Rng::normal(uint64_t index) const {  // Box-Muller; one value a position keeps positions independent
  const auto b = block(seed_, stream_, index);
  const double u = 1.0 - to_unit(b[0], b[1]);  // (0, 1]
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * to_unit(b[2], b[3]));
}

uint64_t Rng::next_below(uint64_t n) {
  // The bias of the multiply-shift is below n / 2^53: nothing here can see it.
  const auto r = static_cast<uint64_t>(next_uniform() * static_cast<double>(n));
  return r < n ? r : n - 1;
}

}  // namespace fovea
