#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::elementwise_file {

void add(int64_t count, const void* x, const void* y, void* out, Context& context) {
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    Transform(begin, end, f32(out), [](VF a, VF b) { return hn::Add(a, b); }, f32(x), f32(y));
  });
}

void scale_add(int64_t count, double alpha, const void* x, void* y, Context& context) {
  const float factor = static_cast<float>(alpha);
  parallel_elements(context, count, [&](int64_t begin, int64_t end) {
    const DF d;
    Transform(begin, end, f32(y), [d, factor](VF a, VF sum) { return hn::MulAdd(hn::Set(d, factor), a, sum); }, f32(x),
              static_cast<const float*>(f32(y)));
  });
}

void scale_rows(int64_t rows, int64_t channels, int64_t rows_per_scale, const void* scale, const void* x,
                const void* residual, void* out, Context& context) {
  parallel_for(context, rows, channels, [&](int64_t begin, int64_t end) {
    const DF d;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * channels;
      const VF factor = hn::Set(d, f32(scale)[r / rows_per_scale]);
      if (residual)
        Transform(at, at + channels, f32(out), [factor](VF v, VF rest) { return hn::MulAdd(factor, v, rest); }, f32(x),
                  f32(residual));
      else
        Transform(at, at + channels, f32(out), [factor](VF v) { return hn::Mul(factor, v); }, f32(x));
    }
  });
}

void scale_columns(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* residual, void* out,
                   Context& context) {
  parallel_for(context, rows, channels, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * channels;
      float* to = f32(out) + at;
      if (residual)
        Transform(0, channels, to, [](VF v, VF g, VF rest) { return hn::MulAdd(v, g, rest); }, f32(x) + at, f32(gamma),
                  f32(residual) + at);
      else
        Transform(0, channels, to, [](VF v, VF g) { return hn::Mul(v, g); }, f32(x) + at, f32(gamma));
    }
  });
}

// dx = dy gamma, dgamma += sum over rows of dy x
void scale_columns_backward(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* dy, void* dx,
                            void* dgamma, Context& context) {
  const RowChunks chunks(rows);
  ArenaScope scope(context.scratch());
  float* partial = dgamma ? context.scratch().take<float>(chunks.count * channels) : nullptr;
  parallel_for(context, chunks.count, chunks.size * channels, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* sum = partial ? partial + chunk * channels : nullptr;
      if (sum) std::fill_n(sum, channels, 0.0f);
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r)
        ForVectors(0, channels, [&](int64_t, auto load, auto store) {
          const VF up = load(f32(dy) + r * channels);
          if (sum) store(hn::MulAdd(up, load(f32(x) + r * channels), load(sum)), sum);
          if (dx) store(hn::Mul(up, load(f32(gamma))), f32(dx) + r * channels);
        });
    }
  });
  if (partial) AddPartials(chunks.count, channels, partial, f32(dgamma));
}

void column_sum(int64_t rows, int64_t channels, int64_t stride, const void* x, void* sum, Context& context) {
  const RowChunks chunks(rows);
  ArenaScope scope(context.scratch());
  float* partial = context.scratch().take<float>(chunks.count * channels);
  parallel_for(context, chunks.count, chunks.size * channels, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* to = partial + chunk * channels;
      std::fill_n(to, channels, 0.0f);
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r)
        Transform(0, channels, to, [](VF total, VF v) { return hn::Add(total, v); }, static_cast<const float*>(to),
                  f32(x) + r * stride);
    }
  });
  AddPartials(chunks.count, channels, partial, f32(sum));
}

// ---- dropout --------------------------------------------------------------------------------------------------------

using DU64 = hn::ScalableTag<uint64_t>;
using VU64 = hn::Vec<DU64>;

// Philox-4x32-10 (core/rng.h) of 64-bit lanes; the words are the low halves of c, the high halves are never looked at:
// MulEven reads low halves only.
struct Words {
  VU64 c0, c1;
};
constexpr int kRounds = 10;
struct Keys {  // of every round, ready to be broadcast
  uint64_t first[kRounds], second[kRounds];
  explicit Keys(uint64_t seed) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int i = 0; i < kRounds; ++i, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      first[i] = k0;
      second[i] = k1;
    }
  }
};

HWY_INLINE Words Philox(const Keys& keys, VU64 stream, VU64 index) {
  const DU64 d;
  const hn::Repartition<uint32_t, DU64> d32;
  const VU64 low_half = hn::Set(d, 0xFFFFFFFFu);
  const auto multiply = [&](VU64 a, uint32_t m) { return hn::MulEven(hn::BitCast(d32, a), hn::Set(d32, m)); };
  VU64 c0 = index, c1 = hn::ShiftRight<32>(index);
  VU64 c2 = stream, c3 = hn::ShiftRight<32>(stream);
  for (int round = 0; round < kRounds; ++round) {
    const VU64 p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
    c0 = hn::Xor(hn::ShiftRight<32>(p1), hn::Xor(c1, hn::Set(d, keys.first[round])));
    c1 = p1;
    c2 = hn::Xor(hn::ShiftRight<32>(p0), hn::Xor(c3, hn::Set(d, keys.second[round])));
    c3 = p0;
  }
  return {hn::And(c0, low_half), hn::And(c1, low_half)};
}

// All ones in the low half of the lanes whose 53-bit fraction, Rng::uniform scaled by 2^53, is below the threshold.
HWY_INLINE VU64 Below(const Words& w, VU64 threshold) {
  const VU64 fraction = hn::Or(hn::ShiftLeft<21>(w.c0), hn::ShiftRight<11>(w.c1));
  const hn::RebindToSigned<DU64> di;
  const auto difference = hn::BitCast(di, hn::Sub(fraction, threshold));  // both below 2^54: negative where below
  const hn::Repartition<int32_t, DU64> di32;
  return hn::ShiftRight<32>(hn::BitCast(DU64(), hn::ShiftRight<31>(hn::BitCast(di32, difference))));
}

void dropout(const DropoutArgs& a, Context& context) {
  const VU64 threshold = hn::Set(DU64(), static_cast<uint64_t>(std::ceil(a.probability * 0x1p53)));
  const float keep = static_cast<float>(1 / (1 - a.probability));
  const Keys keys(a.rng.seed());
  parallel_elements(context, a.count, [&](int64_t begin, int64_t end) {
    const DF d;
    const DU64 d64;
    const VF scale = hn::Set(d, keep);
    const VU64 stream = hn::Set(d64, a.rng.stream());
    const VU64 twice = hn::Add(hn::Iota(d64, 0), hn::Iota(d64, 0));
    ForVectors(begin, end, [&](int64_t i, auto load, auto store) {
      const VU64 even = hn::Add(hn::Set(d64, static_cast<uint64_t>(i)), twice);
      const VU64 odd = hn::Add(even, hn::Set(d64, 1));
      const VU64 drop = hn::Or(Below(Philox(keys, stream, even), threshold),
                               hn::ShiftLeft<32>(Below(Philox(keys, stream, odd), threshold)));
      // And-not, so that a dropped infinity or NaN is zero too.
      store(hn::AndNot(hn::BitCast(d, drop), hn::Mul(load(f32(a.x)), scale)), f32(a.y));
    });
  });
}

void fill(KernelTable& t) {
  t.add = add;
  t.scale_add = scale_add;
  t.scale_rows = scale_rows;
  t.scale_columns = scale_columns;
  t.scale_columns_backward = scale_columns_backward;
  t.column_sum = column_sum;
  t.dropout = dropout;
}

}  // namespace fovea::HWY_NAMESPACE::elementwise_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_elementwise(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, elementwise_file); }
}  // namespace fovea
#endif
