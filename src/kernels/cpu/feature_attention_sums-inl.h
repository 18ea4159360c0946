// Sums over keys and the causal block: what the forward of feature attention does and its backward does again.

#if defined(FOVEA_FEATURE_ATTENTION_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_FEATURE_ATTENTION_SUMS_INL_H_
#undef FOVEA_FEATURE_ATTENTION_SUMS_INL_H_
#else
#define FOVEA_FEATURE_ATTENTION_SUMS_INL_H_
#endif

#include "kernels/cpu/feature_attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::feature_attention {

// What the forward leaves for the backward, in FeatureAttentionArgs::state. Over all keys: the sums of each head and 1 / D of
// each query. Causal: the sums before each chunk, 1 / D, and the stabiliser at each token.
struct State {
  float *sums = nullptr, *inverse = nullptr, *c = nullptr;  // null where nothing is kept
  explicit State(const FeatureCall& call) {
    if (!call.a.state) return;
    const int64_t heads = call.a.batch * call.a.heads;
    const auto at = (reinterpret_cast<uintptr_t>(call.a.state) + 63) / 64 * 64;
    sums = reinterpret_cast<float*>(at);
    inverse = sums + heads * (call.a.causal ? call.chunks() : 1) * call.sums_elements();
    c = inverse + plan::round_up(heads * call.a.queries, 16);
  }
  static int64_t elements(const FeatureCall& call) {
    const int64_t heads = call.a.batch * call.a.heads, tokens = plan::round_up(heads * call.a.queries, 16);
    return 16 + heads * (call.a.causal ? call.chunks() : 1) * call.sums_elements() + (call.a.causal ? 2 : 1) * tokens;
  }
};

inline const uint8_t* padding_at(const FeatureCall& call, int64_t b, int64_t first) {
  return call.a.key_padding ? call.a.key_padding + b * call.a.keys + first : nullptr;
}

// Numbers of the sums' `relative` row: the stabiliser, and the token that gave it.
constexpr int32_t kStabiliser = 0, kToken = 1;

// Of all keys of a head, for what sees later keys.
inline void whole_stabiliser(const FeatureCall& call, const Side& side, int64_t b, int64_t h, float* relative) {
  for (int64_t first = 0; first < call.a.keys; first += kBlock) {
    const auto n = static_cast<int32_t>(std::min<int64_t>(kBlock, call.a.keys - first));
    const uint8_t* padding = padding_at(call, b, first);
    project(call, call.a.k, b, h, first, n, side);
    for (int32_t i = 0; i < n; ++i) {
      if ((padding && padding[i] != 0) || !(key_stabiliser(call, side, i) > relative[kStabiliser])) continue;
      relative[kStabiliser] = key_stabiliser(call, side, i);
      relative[kToken] = static_cast<float>(first + i);
    }
  }
}

// sums += keys [first, first + n), which move their stabiliser where they are higher.
inline void add_keys(const FeatureCall& call, const Sums& sums, const Side& side, float* values, int64_t b, int64_t h, int64_t first, int32_t n) {
  const D d;
  const uint8_t* padding = padding_at(call, b, first);
  project(call, call.a.k, b, h, first, n, side);
  if (call.means) {
    for (int32_t j = 0; j < call.mw; j += kLanes) {
      V most = hn::Load(d, sums.relative + j);
      for (int32_t i = 0; i < n; ++i)
        if (!padding || padding[i] == 0) most = hn::Max(most, hn::Load(d, side.phi + int64_t{i} * call.mw + j));
      const V old = hn::Load(d, sums.relative + j), none = hn::Set(d, kNegInf);
      hn::Store(most, d, sums.relative + j);
      HWY_ALIGN float rescale[kLanes];
      hn::Store(hn::IfThenElseZero(hn::Ne(old, none), exp2(d, hn::Sub(old, most))), d, rescale);
      for (int32_t f = j; f < std::min(j + kLanes, call.m); ++f) {
        sums.z[f] *= rescale[f - j];
        scale_row_in_place(sums.s + int64_t{f} * call.vw, rescale[f - j], call.vw);
      }
    }
  } else {
    float to = sums.relative[kStabiliser];
    for (int32_t i = 0; i < n; ++i) {
      if ((padding && padding[i] != 0) || !(key_stabiliser(call, side, i) > to)) continue;
      to = key_stabiliser(call, side, i);
      sums.relative[kToken] = static_cast<float>(first + i);
    }
    if (to == kNegInf) return;  // padding only
    sums.move(call, to);
  }
  key_features(call, side, n, padding, sums.relative, nullptr);
  pack_rows(call.a.v, b, h, first, n, call.v, 1.0f, values, call.vw);
  add_transposed(call.mw, side.phi, call.mw, values, call.vw, call.vw, n, sums.s, call.vw);
  for (int32_t i = 0; i < n; ++i) add_row(sums.z, 1.0f, side.phi + int64_t{i} * call.mw, call.mw);
}

// sums += the sums over later keys.
inline void add_later(const FeatureCall& call, const Sums& sums, const Sums& later) {
  if (call.means) {
    for (int32_t f = 0; f < call.m; ++f) {
      const float to = std::max(sums.relative[f], later.relative[f]);
      if (to == kNegInf) continue;
      const float own = sums.relative[f] == kNegInf ? 0.0f : exp2(sums.relative[f] - to);
      const float other = later.relative[f] == kNegInf ? 0.0f : exp2(later.relative[f] - to);
      scale_row_in_place(sums.s + int64_t{f} * call.vw, own, call.vw);
      add_row(sums.s + int64_t{f} * call.vw, other, later.s + int64_t{f} * call.vw, call.vw);
      sums.z[f] = sums.z[f] * own + later.z[f] * other;
      sums.relative[f] = to;
    }
    return;
  }
  if (later.relative[kStabiliser] == kNegInf) return;
  if (later.relative[kStabiliser] > sums.relative[kStabiliser]) {
    sums.relative[kToken] = later.relative[kToken];
    sums.move(call, later.relative[kStabiliser]);
  } else {
    later.move(call, sums.relative[kStabiliser]);
  }
  sums.add(call, later);
}

// Tokens that are worked on together in causal order. Keys are relative to the stabiliser at their own place, c_j, so that no
// bit of a row depends on later tokens: a pair takes the factor 2^(c_j - c_i), sums before the block 2^(before - c_i), and
// keys that go into the sums 2^(c_j - after). No factor is greater than one.
struct CausalBlock {
  int64_t first;
  int32_t n;
  float before, after;  // the stabiliser in front of the block and at its last token; minus infinity: no key so far
  bool level;           // it is the same throughout: all factors are one
};

// Features of keys and queries [first, first + n) of a head. c (n) takes the stabiliser at each token, rest (n) the keys' epsilon.
inline CausalBlock load_block(const FeatureCall& call, const Side& keys, const Side& queries, float* c, float* rest, float before, int64_t b,
                              int64_t h, int64_t first, int32_t n) {
  const uint8_t* padding = padding_at(call, b, first);
  project(call, call.a.k, b, h, first, n, keys);
  float running = before;
  for (int32_t i = 0; i < n; ++i) {
    const bool padded = padding && padding[i] != 0;
    if (!padded) running = std::max(running, key_stabiliser(call, keys, i));
    c[i] = running;
    rest[i] = padded ? 0.0f : call.epsilon;
  }
  const int32_t whole = static_cast<int32_t>(plan::round_up(n, kLanes));
  std::fill(c + n, c + whole, kNegInf);
  std::fill(rest + n, rest + whole, 0.0f);
  key_features(call, keys, n, padding, nullptr, c);
  for (int32_t i = 0; i < n; ++i) keys.phi[int64_t{i} * call.mw + call.m] = 0.0f;  // pairs add the rest by themselves
  project(call, call.a.q, b, h, first, n, queries);
  query_features(call, queries, n, c);
  return {first, n, before, running, before == running && before != kNegInf};
}

// Rows of pairs (n, kCausalBlock), zero above the diagonal: pair (i, j) takes its factor, then weight_i · rest_j where wanted.
inline void weigh_pairs(const CausalBlock& block, const float* c, const float* weight, const float* rest, float* pairs) {
  const D d;
  for (int32_t i = 0; i < block.n; ++i) {
    float* row = pairs + i * kCausalBlock;
    if (c[i] == kNegInf) {
      std::fill_n(row, kCausalBlock, 0.0f);
      continue;
    }
    for (int32_t j = 0; j <= i; j += kLanes) {
      V x = hn::Load(d, row + j);
      if (!block.level) x = hn::Mul(x, exp2(d, hn::Min(hn::Zero(d), hn::Sub(hn::Load(d, c + j), hn::Set(d, c[i])))));
      if (weight) x = hn::MulAdd(hn::Set(d, weight[i]), hn::Load(d, rest + j), x);
      hn::Store(x, d, row + j);
    }
    std::fill(row + i + 1, row + kCausalBlock, 0.0f);
  }
}

// The factor of token i's row when it meets the sums before the block, or goes into those after it.
inline float query_factor(const CausalBlock& block, float c) { return block.before == kNegInf ? 0.0f : exp2(block.before - c); }
inline float key_factor(const CausalBlock& block, float c) { return c == kNegInf ? 0.0f : exp2(c - block.after); }

// to (n, mw) = features times their row's factor, and the rest in its column.
template <class Factor>
inline void weigh_rows(const FeatureCall& call, const CausalBlock& block, const float* phi, const float* c, const float* rest, float* to, Factor&& factor) {
  const D d;
  for (int32_t i = 0; i < block.n; ++i) {
    const V f = hn::Set(d, block.level ? 1.0f : factor(block, c[i]));
    const float* HWY_RESTRICT from = phi + int64_t{i} * call.mw;
    float* HWY_RESTRICT row = to + int64_t{i} * call.mw;
    for (int32_t j = 0; j < call.mw; j += kLanes) hn::Store(hn::Mul(f, hn::Load(d, from + j)), d, row + j);
    row[call.m] = rest[i];
  }
}

// Rows up to whole vectors behind n are zero, so that a transposition can take them along.
inline void clear_behind(float* rows, int32_t n, int64_t width) {
  std::fill(rows + n * width, rows + plan::round_up(n, kLanes) * width, 0.0f);
}

// c (n, kCausalBlock) = a · b where the column is not behind the row, zero elsewhere; b as panels of `columns`.
inline void lower_product(int32_t n, const float* a, int64_t a_stride, const float* panels, const plan::Pieces& columns, int64_t depth, float* c) {
  const plan::Pieces tiles(n, kTileRows);
  for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
    const int32_t r = tiles.begin(tile), rows = tiles.begin(tile + 1) - r;
    for (int32_t p = 0; p < columns.pieces && columns.begin(p) * kLanes < r + rows; ++p) {
      const int32_t begin = columns.begin(p) * kLanes, vectors = columns.begin(p + 1) - columns.begin(p);
      tile_of(false, rows, vectors)({.a = a + r * a_stride, .a_stride = a_stride, .b = panels + begin * depth,
                                     .b_stride = vectors * kLanes, .depth = depth, .init = nullptr, .init_stride = 0,
                                     .c = c + r * kCausalBlock + begin, .c_stride = kCausalBlock});
    }
    for (int32_t i = r; i < r + rows; ++i) std::fill(c + i * kCausalBlock + i + 1, c + (i + 1) * kCausalBlock, 0.0f);
  }
}

inline plan::Pieces block_columns(int32_t n) { return plan::Pieces((n + kLanes - 1) / kLanes, kTileVectors); }

}  // namespace fovea::HWY_NAMESPACE::feature_attention
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
