// Depthwise 3x3 convolution inside blocks of a map of tokens. The forward and the gradient of its input are one gathering of
// neighbours: a token lists the taps that it has (from one to nine), then runs over its channels once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cc"
#include "kernels/cpu/isa.h"

#include <type_traits>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/check.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/loops-inl.h"

#ifndef FOVEA_KERNELS_CPU_DEPTHWISE_NEIGHBOURS
#define FOVEA_KERNELS_CPU_DEPTHWISE_NEIGHBOURS
namespace fovea::depthwise {

constexpr int kTaps = 9;

// Walks the tokens of a batch in order and says which neighbours each one has.
class Neighbours {
 public:
  Neighbours(const Depthwise3x3Args& a, int64_t item) : a_(a) {
    const int64_t tokens = a.height * a.width;
    b_ = item / tokens;
    token_ = item % tokens;
    y_ = token_ / a.width;
    x_ = item % a.width;
    start_row();
    column_ = (x_ + a.block_left) % a.block_w;
  }

  int64_t batch() const { return b_; }
  int64_t token() const { return token_; }
  bool there() const { return there_at(token_); }

  // Calls f(neighbour's token, tap) by rising tap.
  template <class F>
  void for_each(F&& f) const {
    const int64_t left = x_ > 0 && column_ > 0 ? -1 : 0, right = x_ + 1 < a_.width && column_ + 1 < a_.block_w ? 1 : 0;
    for (int64_t dy = up_; dy <= down_; ++dy)
      for (int64_t dx = left; dx <= right; ++dx) {
        const int64_t n = token_ + dy * a_.width + dx;
        if (there_at(n)) f(n, static_cast<int>((dy + 1) * 3 + dx + 1));
      }
  }

  // Without divisions, which would cost as much as a token's sums.
  void next() {
    ++token_;
    if (++column_ == a_.block_w) column_ = 0;
    if (++x_ < a_.width) return;
    x_ = 0;
    column_ = a_.block_left % a_.block_w;
    if (++y_ == a_.height) {
      token_ = y_ = 0;
      ++b_;
    }
    start_row();
  }

 private:
  bool there_at(int64_t t) const { return !a_.skip || a_.skip[b_ * a_.skip_batch_stride + t] == 0; }
  void start_row() {
    const int64_t row = (y_ + a_.block_top) % a_.block_h;
    up_ = y_ > 0 && row > 0 ? -1 : 0;
    down_ = y_ + 1 < a_.height && row + 1 < a_.block_h ? 1 : 0;
  }

  const Depthwise3x3Args& a_;
  int64_t b_, token_, y_, x_;
  int64_t column_;               // x within its block
  int64_t up_ = 0, down_ = 0;    // neighbouring rows in the block: -1 or 0, 0 or 1
};

template <class X = float>
const X* token_row(const ConstHeadsView& v, int64_t b, int64_t token) {
  return static_cast<const X*>(v.data) + b * v.batch_stride + token * v.token_stride;
}
inline float* token_row(const HeadsView& v, int64_t b, int64_t token) {
  return f32(v.data) + b * v.batch_stride + token * v.token_stride;
}

// (C, 9) -> (9, C), or with the taps in reverse: the tap that leads back.
inline void transpose_taps(const void* weight, int64_t channels, bool reverse, float* out) {
  for (int tap = 0; tap < kTaps; ++tap)
    for (int64_t c = 0; c < channels; ++c) out[tap * channels + c] = f32(weight)[c * kTaps + (reverse ? kTaps - 1 - tap : tap)];
}

}  // namespace fovea::depthwise
#endif

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::depthwise_file {

using namespace depthwise;  // NOLINT: the parts of this file without vectors

// X: float, or uint16_t for bfloat16.
template <class X>
struct Taps {
  const X* x[kTaps];
  const float* weight[kTaps];
  int count = 0;
};

// y = before + bias + the sum of N taps; before and bias may be null.
template <int N, class X>
HWY_INLINE void sum_taps(const Taps<X>& taps, int64_t channels, const float* before, const float* bias, float* y) {
  ForVectors(0, channels, [&](int64_t c, auto load, auto store) {
    const auto load_x = [&](const X* x) HWY_ATTR {
      if constexpr (std::is_same_v<X, float>)
        return load(x);
      else
        return c + kLanes <= channels ? LoadBf16(x + c) : LoadBf16Tail(x + c, static_cast<size_t>(channels - c));
    };
    VF sum = before ? load(before) : hn::Zero(DF());
    if (bias) sum = hn::Add(sum, load(bias));
    for (int i = 0; i < N; ++i) sum = hn::MulAdd(load_x(taps.x[i]), load(taps.weight[i]), sum);
    store(sum, y);
  });
}

template <class X>
HWY_INLINE void sum_taps(const Taps<X>& taps, int64_t channels, const float* before, const float* bias, float* y) {
  switch (taps.count) {
    case 0: return sum_taps<0>(taps, channels, before, bias, y);
    case 1: return sum_taps<1>(taps, channels, before, bias, y);
    case 2: return sum_taps<2>(taps, channels, before, bias, y);
    case 3: return sum_taps<3>(taps, channels, before, bias, y);
    case 4: return sum_taps<4>(taps, channels, before, bias, y);
    case 5: return sum_taps<5>(taps, channels, before, bias, y);
    case 6: return sum_taps<6>(taps, channels, before, bias, y);
    case 7: return sum_taps<7>(taps, channels, before, bias, y);
    case 8: return sum_taps<8>(taps, channels, before, bias, y);
    default: return sum_taps<9>(taps, channels, before, bias, y);
  }
}

// y(t) = before(t) + bias + sum over neighbours n of weights[tap] · x(n), weights (9, C); a token that is not there: before(t).
template <class X>
void gather(const Depthwise3x3Args& a, const ConstHeadsView& x, const float* weights, const float* bias, const ConstHeadsView& before,
            const HeadsView& y, Context& context) {
  parallel_for(context, a.batch * a.height * a.width, kTaps * a.channels, [&](int64_t begin, int64_t end) {
    Neighbours at(a, begin);
    for (int64_t item = begin; item < end; ++item, at.next()) {
      const int64_t b = at.batch(), token = at.token();
      Taps<X> taps;
      const bool there = at.there();
      if (there)
        at.for_each([&](int64_t n, int tap) {
          taps.x[taps.count] = token_row<X>(x, b, n);
          taps.weight[taps.count++] = weights + tap * a.channels;
        });
      sum_taps(taps, a.channels, before.data ? token_row(before, b, token) : nullptr, there ? bias : nullptr, token_row(y, b, token));
    }
  });
}

void depthwise3x3(const Depthwise3x3Args& a, Context& context) {
  ArenaScope scope(context.scratch());
  float* weights = context.scratch().take<float>(kTaps * a.channels);
  transpose_taps(a.weight, a.channels, false, weights);
  a.x_bf16 ? gather<uint16_t>(a, a.x, weights, f32(a.bias), a.residual, a.y, context) : gather<float>(a, a.x, weights, f32(a.bias), a.residual, a.y, context);
}

// Tokens whose taps are listed before the channels are gone through: their rows stay in the caches meanwhile.
constexpr int64_t kBlockTokens = 32;

struct TokenTaps {
  const float* dy;
  const float* x[kTaps];  // a row of zeros where there is no such tap
  bool sides;             // any tap beside the middle column
};

// partial (9, C) and partial_bias (C) += the products of `count` tokens, sums in registers: nine taps of one vector of channels.
HWY_INLINE void add_products(const TokenTaps* tokens, int64_t count, int64_t channels, float* partial, float* partial_bias) {
  ForVectors(0, channels, [&](int64_t, auto load, auto store) {
    VF sum[kTaps];
    for (int i = 0; i < kTaps; ++i) sum[i] = load(partial + i * channels);
    VF bias = load(partial_bias);
    for (int64_t t = 0; t < count; ++t) {
      const TokenTaps& token = tokens[t];
      const VF g = load(token.dy);
      bias = hn::Add(bias, g);
      for (int i = 1; i < kTaps; i += 3) sum[i] = hn::MulAdd(g, load(token.x[i]), sum[i]);
      if (!token.sides) continue;
      for (int i = 0; i < kTaps; i += 3) sum[i] = hn::MulAdd(g, load(token.x[i]), sum[i]);
      for (int i = 2; i < kTaps; i += 3) sum[i] = hn::MulAdd(g, load(token.x[i]), sum[i]);
    }
    for (int i = 0; i < kTaps; ++i) store(sum[i], partial + i * channels);
    store(bias, partial_bias);
  });
}

// dweight[tap] += sum over t of G(t) x(t + tap), dbias += sum over t of G(t), in chunks of tokens that are added in order.
void parameter_gradients(const Depthwise3x3BackwardArgs& args, Context& context) {
  const Depthwise3x3Args& a = args.forward;
  const RowChunks chunks(a.batch * a.height * a.width);
  ArenaScope scope(context.scratch());
  const int64_t size = (kTaps + 1) * a.channels;  // the tenth row is the bias
  float* partial = context.scratch().take<float>(chunks.count * size);
  float* zeros = context.scratch().take<float>(a.channels);
  std::fill_n(zeros, a.channels, 0.0f);
  parallel_for(context, chunks.count, chunks.size * kTaps * a.channels, [&](int64_t begin, int64_t end) {
    TokenTaps tokens[kBlockTokens];
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* sums = partial + chunk * size;
      std::fill_n(sums, size, 0.0f);
      Neighbours at(a, chunks.begin(chunk));
      int64_t count = 0;
      const int64_t last = chunks.end(chunk);
      for (int64_t item = chunks.begin(chunk); item < last; ++item, at.next()) {
        if (at.there()) {
          TokenTaps& t = tokens[count++];
          t.dy = token_row(args.dy, at.batch(), at.token());
          t.sides = false;
          std::fill_n(t.x, kTaps, zeros);
          at.for_each([&](int64_t n, int tap) {
            t.x[tap] = token_row(a.x, at.batch(), n);
            t.sides = t.sides || tap % 3 != 1;
          });
        }
        if (count == kBlockTokens || item + 1 == last) {
          add_products(tokens, count, a.channels, sums, sums + kTaps * a.channels);
          count = 0;
        }
      }
    }
  });
  float* total = context.scratch().take<float>(size);
  std::fill_n(total, size, 0.0f);
  AddPartials(chunks.count, size, partial, total);
  if (args.dweight)
    for (int64_t c = 0; c < a.channels; ++c)
      for (int tap = 0; tap < kTaps; ++tap) f32(args.dweight)[c * kTaps + tap] += total[tap * a.channels + c];
  if (args.dbias)
    Transform(0, a.channels, f32(args.dbias), [](VF x, VF y) { return hn::Add(x, y); }, static_cast<const float*>(args.dbias),
              static_cast<const float*>(total + kTaps * a.channels));
}

// dx(n) += sum over the tokens t that see n of weight[tap of n in t] · G(t): t are n's neighbours, through the opposite taps.
void depthwise3x3_backward(const Depthwise3x3BackwardArgs& args, Context& context) {
  const Depthwise3x3Args& a = args.forward;
  check(!a.x_bf16, "the convolution's backward reads x as floats");
  if (args.dx.data) {
    ArenaScope scope(context.scratch());
    float* weights = context.scratch().take<float>(kTaps * a.channels);
    transpose_taps(a.weight, a.channels, true, weights);
    gather<float>(a, args.dy, weights, nullptr, args.dx, args.dx, context);
  }
  if (args.dweight || args.dbias) parameter_gradients(args, context);
}

void fill(KernelTable& t) {
  t.depthwise3x3 = depthwise3x3;
  t.depthwise3x3_backward = depthwise3x3_backward;
}

}  // namespace fovea::HWY_NAMESPACE::depthwise_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_depthwise(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, depthwise_file); }
}  // namespace fovea
#endif
