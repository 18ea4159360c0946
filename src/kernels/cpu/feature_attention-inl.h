// Rows of random features, once per instruction set: projection tiles with the map's function right behind them, and the way
// back to the rows. What the forward and the backward of feature attention share.
//
// Exponents are in base 2: rows are packed with input_scale · log2(e). Features are padded to whole vectors. The first pad,
// column M, is a feature of its own, "the rest": keys have epsilon there, queries the sum of their features, so that
// phi(k) = E + epsilon needs only E (kernels/reference/feature_attention.h says why); the other pads are zero.

#if defined(FOVEA_FEATURE_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_FEATURE_ATTENTION_INL_H_
#undef FOVEA_FEATURE_ATTENTION_INL_H_
#else
#define FOVEA_FEATURE_ATTENTION_INL_H_
#endif

#include "kernels/cpu/grouped_attention_block-inl.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::feature_attention {

using namespace grouped_attention_tile;  // NOLINT: the register tiles and their vectors

// ---- products in row tiles ------------------------------------------------------------------------------------------

// c (n, columns of the panels) = init + a · b, b as panels (depth, width) one behind the other; done(r, rows) after each tile.
template <class Done>
inline void times_panels(int32_t n, const float* a, int64_t a_stride, const float* panels, const plan::Pieces& pieces, int64_t depth,
                         const float* init, int64_t init_stride, float* c, int64_t c_stride, Done&& done) {
  if (n == 0) return;
  const plan::Pieces tiles(n, kTileRows);
  for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
    const int32_t r = tiles.begin(tile), rows = tiles.begin(tile + 1) - r;
    for (int32_t p = 0; p < pieces.pieces; ++p) {
      const int32_t begin = pieces.begin(p) * kLanes, vectors = pieces.begin(p + 1) - pieces.begin(p);
      tile_of(false, rows, vectors)({.a = a + r * a_stride, .a_stride = a_stride, .b = panels + begin * depth,
                                     .b_stride = vectors * kLanes, .depth = depth,
                                     .init = init ? init + r * init_stride + begin : nullptr, .init_stride = init_stride,
                                     .c = c + r * c_stride + begin, .c_stride = c_stride});
    }
    done(r, rows);
  }
}

// c (n, width) = init + a · b, rows of b `width` apart.
inline void times(int32_t n, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int32_t width, int64_t depth,
                  const float* init, float* c, int64_t c_stride) {
  if (n == 0) return;
  const plan::Pieces tiles(n, kTileRows);
  for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
    const int32_t r = tiles.begin(tile), rows = tiles.begin(tile + 1) - r;
    product(false, rows, width / kLanes, {.a = a + r * a_stride, .a_stride = a_stride, .b = b, .b_stride = b_stride, .depth = depth,
                                          .init = init ? init + r * c_stride : nullptr, .init_stride = c_stride,
                                          .c = c + r * c_stride, .c_stride = c_stride});
  }
}

// c (n, width) += aᵀ · b over `depth` rows of a and b.
inline void add_transposed(int32_t n, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int32_t width, int64_t depth,
                           float* c, int64_t c_stride) {
  if (n == 0 || depth == 0) return;
  const plan::Pieces tiles(n, kTileRows);
  for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
    const int32_t r = tiles.begin(tile), rows = tiles.begin(tile + 1) - r;
    product(true, rows, width / kLanes, {.a = a + r, .a_stride = a_stride, .b = b, .b_stride = b_stride, .depth = depth,
                                         .init = c + r * c_stride, .init_stride = c_stride, .c = c + r * c_stride, .c_stride = c_stride});
  }
}

// y (width) += factor · x.
inline void add_row(float* HWY_RESTRICT y, float factor, const float* HWY_RESTRICT x, int64_t width) {
  const D d;
  const V f = hn::Set(d, factor);
  for (int64_t i = 0; i < width; i += kLanes) hn::Store(hn::MulAdd(f, hn::Load(d, x + i), hn::Load(d, y + i)), d, y + i);
}
inline void scale_row_in_place(float* HWY_RESTRICT y, float factor, int64_t width) {
  const D d;
  for (int64_t i = 0; i < width; i += kLanes) hn::Store(hn::Mul(hn::Set(d, factor), hn::Load(d, y + i)), d, y + i);
}
inline float dot_rows(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, int64_t width) {
  const D d;
  V sum = hn::Zero(d), other = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes < width; i += 2 * kLanes) {
    sum = hn::MulAdd(hn::Load(d, x + i), hn::Load(d, y + i), sum);
    other = hn::MulAdd(hn::Load(d, x + i + kLanes), hn::Load(d, y + i + kLanes), other);
  }
  if (i < width) sum = hn::MulAdd(hn::Load(d, x + i), hn::Load(d, y + i), sum);
  return sum_of_lanes(hn::Add(sum, other));
}

// ---- what is the same for every task of a call -----------------------------------------------------------------------

constexpr int32_t kBlock = 96;         // rows that are worked on at a time, over all keys
constexpr int32_t kCausalBlock = 64;   // the same in causal order, where pairs within a block cost their number
constexpr int32_t kChunk = 256;        // causal: tokens between states that are kept for the backward
constexpr int64_t kEnoughTasks = 16;   // of heads and spans

struct FeatureCall {
  const FeatureAttentionArgs& a;
  int32_t d, dw, v, vw, m, mw;   // head_dim, value_dim and features with and without padding
  bool exponential, softmax, none, means, stabiliser_matters;
  float factor;                  // of packed rows
  float epsilon, causal_epsilon;
  plan::Pieces pieces;           // panels of features
  const float* panels = nullptr; // Wᵀ (D, M) as panels
  const float* w = nullptr;      // W (mw, dw), zeros behind
  const float* start = nullptr;  // (mw) 0, minus infinity behind the features
  int32_t* iota = nullptr;       // row numbers, for packing
  int32_t spans, span;           // pieces of the sequence that are tasks of their own, and their length

  explicit FeatureCall(const FeatureAttentionArgs& args)
      : a(args),
        d(static_cast<int32_t>(args.head_dim)),
        dw(static_cast<int32_t>(plan::round_up(args.head_dim, kLanes))),
        v(static_cast<int32_t>(args.value_dim)),
        vw(static_cast<int32_t>(plan::round_up(args.value_dim, kLanes))),
        m(static_cast<int32_t>(args.features)),
        mw(static_cast<int32_t>(plan::round_up(args.features + 1, kLanes))),
        exponential(args.map == FeatureKernel::kSoftmax || args.map == FeatureKernel::kNone),
        softmax(args.map == FeatureKernel::kSoftmax),
        none(args.map == FeatureKernel::kNone),
        means(args.map == FeatureKernel::kNone && !args.causal),
        stabiliser_matters(softmax && (args.epsilon != 0 || (args.causal && args.causal_epsilon != 0))),
        factor(static_cast<float>(args.input_scale * (exponential || args.map == FeatureKernel::kExp ? 1.4426950408889634 : 1))),
        epsilon(static_cast<float>(args.epsilon)),
        causal_epsilon(args.causal ? static_cast<float>(args.causal_epsilon) : 0.0f),
        pieces(mw / kLanes, kTileVectors) {
    check(args.head_dim >= 1 && args.head_dim <= 256 && args.value_dim >= 1 && args.value_dim <= 256,
          "feature attention: head_dim {} or value_dim {} is not in [1, 256]", args.head_dim, args.value_dim);
    check(args.features >= 1 && args.features <= 65536 && (!none || args.features == args.head_dim), "feature attention: {} features", args.features);
    check(!args.causal || args.queries == args.keys, "causal feature attention of {} queries on {} keys", args.queries, args.keys);
    const int64_t tokens = std::max(args.queries, args.keys), chunks = std::max<int64_t>(1, (tokens + kChunk - 1) / kChunk);
    const int64_t heads = std::max<int64_t>(1, args.batch * args.heads);
    const int64_t wanted = std::clamp<int64_t>((kEnoughTasks + heads - 1) / heads, 1, chunks);
    span = static_cast<int32_t>((chunks + wanted - 1) / wanted * kChunk);
    spans = static_cast<int32_t>(std::max<int64_t>(1, (tokens + span - 1) / span));
  }
  // Sums over rows: S (mw, vw), z (mw), and what S and z are relative to (mw; all of it only for `means`).
  int64_t sums_elements() const { return int64_t{mw} * (vw + 2); }
  int64_t panel_elements() const { return int64_t{mw} * (v + 1); }
  int32_t chunks() const { return static_cast<int32_t>((a.keys + kChunk - 1) / kChunk); }
  int64_t tasks() const { return a.batch * a.heads * spans; }

  void prepare(Arena& arena) {
    int32_t* numbers = arena.take<int32_t>(std::max(mw, kChunk) + kLanes);
    for (int32_t i = 0; i < std::max(mw, kChunk) + kLanes; ++i) numbers[i] = i;
    iota = numbers;
    float* first = arena.take<float>(mw);
    for (int32_t f = 0; f < mw; ++f) first[f] = f < m ? 0.0f : kNegInf;
    start = first;
    if (none) return;
    float* rows = arena.take<float>(int64_t{mw} * dw);
    std::fill_n(rows, int64_t{mw} * dw, 0.0f);
    for (int32_t f = 0; f < m; ++f) std::copy_n(static_cast<const float*>(a.projection) + int64_t{f} * d, d, rows + int64_t{f} * dw);
    w = rows;
    float* packed = arena.take<float>(int64_t{mw} * d);
    transpose_to_panels(rows, dw, mw, pieces, d, nullptr, packed);
    panels = packed;
  }

  // Panels of srcᵀ for rows of src (count, a multiple of 4, at least `depth` wide), with `extra` (count) as one more row of
  // each panel when not null.
  void transpose_to_panels(const float* src, int64_t stride, int32_t count, const plan::Pieces& of, int32_t depth, const float* extra,
                           float* dst) const {
    const Rows rows(ConstHeadsView{src, 0, stride, 0}, {}, nullptr, depth, 0, 0);
    for (int32_t p = 0; p < of.pieces; ++p) {
      const int32_t begin = of.begin(p) * kLanes, width = of.begin(p + 1) * kLanes - begin;
      pack_panels(rows, iota + begin, std::min(width, count - begin), plan::Pieces(width / kLanes, kTileVectors), depth, dst);
      dst += int64_t{depth} * width;
      if (!extra) continue;
      std::copy_n(extra + begin, width, dst);
      dst += width;
    }
  }
};

// Sums over the rows of one side: of keys for queries, of queries for keys. Column M belongs to the rest.
struct Sums {
  float *s, *z, *relative;  // (mw, vw), (mw), (mw)
  Sums(float* at, const FeatureCall& call) : s(at), z(at + int64_t{call.mw} * call.vw), relative(z + call.mw) {}
  void clear(const FeatureCall& call) const {
    std::fill_n(s, call.sums_elements() - call.mw, 0.0f);
    std::fill_n(relative, call.mw, kNegInf);
  }
  // From relative to one stabiliser to relative to another, but for the rest. Before the first key there is nothing to move.
  void move(const FeatureCall& call, float to) const {
    const float from = relative[0];
    if (from == to) return;
    relative[0] = to;
    if (from != kNegInf) scale(call, exp2(from - to));
  }
  // The same for sums over queries that are multiplied by 2^(reference - c): to an earlier reference.
  void move_back(const FeatureCall& call, float to) const {
    const float from = relative[0];
    if (from == to || to == kNegInf) return;
    relative[0] = to;
    if (from != kNegInf) scale(call, exp2(to - from));
  }
  void scale(const FeatureCall& call, float by) const {
    for (int32_t f = 0; f < call.m; ++f) {
      scale_row_in_place(s + int64_t{f} * call.vw, by, call.vw);
      z[f] *= by;
    }
  }
  void add(const FeatureCall& call, const Sums& other) const {
    add_row(s, 1.0f, other.s, int64_t{call.mw} * call.vw);
    add_row(z, 1.0f, other.z, call.mw);
  }
};

// Rows of q or k at work.
struct Side {
  float* x;              // (n, dw) packed
  float* phi;            // (n, mw)
  float* slope;          // (n, mw) of relu and gelu, when wanted
  float *half, *top;     // (n) |x~|^2 / 2 in base 2, the largest u
  float* rest;           // (n) of queries: how they weigh the rest
  int32_t* top_feature;  // (n) when wanted
  Side(Cutter& cutter, const FeatureCall& call, int32_t n, bool slopes)
      : x(cutter.take<float>(int64_t{n} * call.dw)),
        phi(cutter.take<float>(int64_t{n} * call.mw)),
        slope(slopes && has_slope(call) ? cutter.take<float>(int64_t{n} * call.mw) : nullptr),
        half(cutter.take<float>(n)),
        top(cutter.take<float>(n)),
        rest(cutter.take<float>(n)),
        top_feature(cutter.take<int32_t>(n)) {}
  static int64_t bytes(const FeatureCall& call, int32_t n, bool slopes) {
    return Cutter::bytes<float>(int64_t{n} * call.dw) + (slopes && has_slope(call) ? 2 : 1) * Cutter::bytes<float>(int64_t{n} * call.mw) +
           4 * Cutter::bytes<float>(n);
  }
  static bool has_slope(const FeatureCall& call) { return call.a.map == FeatureKernel::kRelu || call.a.map == FeatureKernel::kGelu; }
  Side from(const FeatureCall& call, int32_t row) const {
    Side s = *this;
    s.x += int64_t{row} * call.dw;
    s.phi += int64_t{row} * call.mw;
    if (s.slope) s.slope += int64_t{row} * call.mw;
    s.half += row;
    s.top += row;
    s.rest += row;
    s.top_feature += row;
    return s;
  }
};

inline const float* row_pointer(const ConstHeadsView& view, int64_t b, int64_t row, int64_t h) {
  return static_cast<const float*>(view.data) + b * view.batch_stride + row * view.token_stride + h * view.head_stride;
}
inline float* row_pointer(const HeadsView& view, int64_t b, int64_t row, int64_t h) {
  return static_cast<float*>(view.data) + b * view.batch_stride + row * view.token_stride + h * view.head_stride;
}

// n rows of a view, `stride` apart, zeros behind their width.
inline void pack_rows(const ConstHeadsView& view, int64_t b, int64_t h, int64_t first, int32_t n, int32_t width, float factor, float* to,
                      int32_t stride) {
  for (int32_t i = 0; i < n; ++i) pack_row(row_pointer(view, b, first + i, h), width, factor, to + int64_t{i} * stride);
}

// Packs rows and leaves u in phi (minus infinity in the pads), and half and top.
inline void project(const FeatureCall& call, const ConstHeadsView& view, int64_t b, int64_t h, int64_t first, int32_t n, const Side& side) {
  const D d;
  pack_rows(view, b, h, first, n, call.d, call.factor, side.x, call.dw);
  const auto finish = [&](int32_t r, int32_t rows) HWY_ATTR {
    for (int32_t i = r; i < r + rows; ++i) {
      const float* u = side.phi + int64_t{i} * call.mw;
      V most = hn::Set(d, kNegInf);
      if (call.exponential)
        for (int32_t j = 0; j < call.mw; j += kLanes) most = hn::Max(most, hn::Load(d, u + j));
      side.top[i] = call.exponential ? max_of_lanes(most) : 0.0f;
      const float* x = side.x + int64_t{i} * call.dw;
      side.half[i] = call.softmax ? 0.5f * kLn2 * dot_rows(x, x, call.dw) : 0.0f;
    }
  };
  if (call.none) {
    for (int32_t i = 0; i < n; ++i) {
      std::copy_n(side.x + int64_t{i} * call.dw, call.d, side.phi + int64_t{i} * call.mw);
      std::fill(side.phi + int64_t{i} * call.mw + call.m, side.phi + int64_t{i + 1} * call.mw, kNegInf);
    }
    return finish(0, n);
  }
  times_panels(n, side.x, call.dw, call.panels, call.pieces, call.d, call.start, 0, side.phi, call.mw, finish);
}

// What a key's row offers as the stabiliser; zero where the map has none, so that minus infinity always says "no key yet".
inline float key_stabiliser(const FeatureCall& call, const Side& side, int32_t i) {
  if (!call.exponential) return 0.0f;
  return call.stabiliser_matters ? side.top[i] : side.top[i] - side.half[i];
}

// u becomes the function's value of a vector, and the slope where there is one.
template <FeatureKernel kMap>
HWY_INLINE V feature_of(V u, V shift, V* slope) {
  const D d;
  if constexpr (kMap == FeatureKernel::kSoftmax || kMap == FeatureKernel::kNone) return exp2(d, hn::Add(u, shift));
  if constexpr (kMap == FeatureKernel::kExp) return exp2(d, hn::Min(u, hn::Set(d, 127.5f)));
  if constexpr (kMap == FeatureKernel::kRelu) {
    *slope = hn::IfThenElseZero(hn::Gt(u, hn::Zero(d)), hn::Set(d, 1.0f));
    return hn::Max(hn::Zero(d), u);
  }
  if constexpr (kMap == FeatureKernel::kGelu) {
    *slope = GeluGrad(d, u);
    return Gelu(d, u);
  }
}

template <FeatureKernel kMap>
inline void key_row(const FeatureCall& call, float* HWY_RESTRICT phi, float* HWY_RESTRICT slope, float shift, const float* relative) {
  const D d;
  const V s = hn::Set(d, shift);
  for (int32_t j = 0; j < call.mw; j += kLanes) {
    V t = hn::Zero(d);
    hn::Store(feature_of<kMap>(hn::Load(d, phi + j), relative ? hn::Neg(hn::Load(d, relative + j)) : s, &t), d, phi + j);
    if (slope) hn::Store(t, d, slope + j);
  }
  std::fill(phi + call.m, phi + call.mw, 0.0f);
  phi[call.m] = call.epsilon;
  if (slope) std::fill(slope + call.m, slope + call.mw, 0.0f);
}

// E of n keys from u, zeros for padding: relative to the stabiliser `relative`, for `means` to one of each feature, or to
// `own` (n), one of each key.
inline void key_features(const FeatureCall& call, const Side& side, int32_t n, const uint8_t* padding, const float* relative, const float* own) {
  for (int32_t i = 0; i < n; ++i) {
    float* phi = side.phi + int64_t{i} * call.mw;
    float* slope = side.slope ? side.slope + int64_t{i} * call.mw : nullptr;
    if (padding && padding[i] != 0) {
      std::fill_n(phi, call.mw, 0.0f);
      if (slope) std::fill_n(slope, call.mw, 0.0f);
      continue;
    }
    const float shift = call.exponential ? -side.half[i] - (own ? own[i] : relative[0]) : 0.0f;
    switch (call.a.map) {
      case FeatureKernel::kSoftmax: key_row<FeatureKernel::kSoftmax>(call, phi, slope, shift, nullptr); break;
      case FeatureKernel::kNone: key_row<FeatureKernel::kNone>(call, phi, slope, shift, call.means ? relative : nullptr); break;
      case FeatureKernel::kRelu: key_row<FeatureKernel::kRelu>(call, phi, slope, shift, nullptr); break;
      case FeatureKernel::kExp: key_row<FeatureKernel::kExp>(call, phi, slope, shift, nullptr); break;
      case FeatureKernel::kGelu: key_row<FeatureKernel::kGelu>(call, phi, slope, shift, nullptr); break;
    }
  }
}

template <FeatureKernel kMap>
inline float query_row(const FeatureCall& call, float* HWY_RESTRICT phi, float* HWY_RESTRICT slope, float shift, float epsilon) {
  const D d;
  const V s = hn::Set(d, shift), e = hn::Set(d, epsilon);
  V sum = hn::Zero(d);
  for (int32_t j = 0; j < call.mw; j += kLanes) {
    V t = hn::Zero(d);
    V x = feature_of<kMap>(hn::Load(d, phi + j), s, &t);
    const auto live = hn::FirstN(d, static_cast<size_t>(std::max(0, call.m - j)));
    x = hn::IfThenElseZero(live, hn::Add(x, e));
    sum = hn::Add(sum, x);
    hn::Store(x, d, phi + j);
    if (slope) hn::Store(hn::IfThenElseZero(live, t), d, slope + j);
  }
  return sum_of_lanes(sum);
}

// phi of n queries from u. c (n), in causal order, is the keys' stabiliser at each query: where that is minus infinity the
// query meets no key and its row becomes zeros.
inline void query_features(const FeatureCall& call, const Side& side, int32_t n, const float* c) {
  const D d;
  for (int32_t i = 0; i < n; ++i) {
    float* phi = side.phi + int64_t{i} * call.mw;
    float* slope = side.slope ? side.slope + int64_t{i} * call.mw : nullptr;
    if (call.softmax && side.top_feature) {
      // The first of equals, as in the reference.
      int32_t f = 0;
      const V top = hn::Set(d, side.top[i]);
      while (hn::AllFalse(d, hn::Eq(hn::Load(d, phi + f), top)) && f + kLanes < call.mw) f += kLanes;
      while (phi[f] != side.top[i] && f + 1 < call.m) ++f;
      side.top_feature[i] = f;
    }
    if (c && c[i] == kNegInf) {
      std::fill_n(phi, call.mw, 0.0f);
      if (slope) std::fill_n(slope, call.mw, 0.0f);
      side.rest[i] = 0.0f;
      continue;
    }
    float sum = 0;
    switch (call.a.map) {
      case FeatureKernel::kSoftmax: {
        const float shift = call.stabiliser_matters ? -side.half[i] - side.top[i] : -side.top[i];
        sum = query_row<FeatureKernel::kSoftmax>(call, phi, slope, shift, call.epsilon);
        break;
      }
      case FeatureKernel::kNone: {
        sum = query_row<FeatureKernel::kNone>(call, phi, slope, -side.top[i], 0.0f);
        scale_row_in_place(phi, 1 / sum, call.mw);
        sum = 1.0f;
        break;
      }
      case FeatureKernel::kRelu: sum = query_row<FeatureKernel::kRelu>(call, phi, slope, 0.0f, call.epsilon); break;
      case FeatureKernel::kExp: sum = query_row<FeatureKernel::kExp>(call, phi, slope, 0.0f, call.epsilon); break;
      case FeatureKernel::kGelu: sum = query_row<FeatureKernel::kGelu>(call, phi, slope, 0.0f, call.epsilon); break;
    }
    // The epsilon of causal kNone is absolute, where its sums are relative to c.
    if (call.none && call.a.causal) sum = call.causal_epsilon != 0 ? exp2(-c[i]) : 0.0f;
    phi[call.m] = side.rest[i] = sum;
  }
}

// dx of n rows from the gradient of their features, dphi (n, mw), which is overwritten. For queries the rest's gradient goes to
// every feature. With u = W x~ - |x~|^2 / 2: dx~ = W^T du - x~ · sum du; a query's own stabiliser takes epsilon · sum dphi.
inline void rows_backward(const FeatureCall& call, const Side& side, int32_t n, bool queries, float* dphi, float* tile, const HeadsView& to,
                          int64_t b, int64_t h, int64_t first) {
  const D d;
  const float scale = static_cast<float>(call.a.input_scale);
  const plan::Pieces tiles(n, kTileRows);
  for (int32_t t = 0; n > 0 && t < tiles.pieces; ++t) {
    const int32_t begin = tiles.begin(t), rows = tiles.begin(t + 1) - begin;
    float sums[kTileRows];
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t i = begin + r;
      const float* HWY_RESTRICT phi = side.phi + int64_t{i} * call.mw;
      const float* HWY_RESTRICT slope = side.slope ? side.slope + int64_t{i} * call.mw : nullptr;
      float* HWY_RESTRICT g = dphi + int64_t{i} * call.mw;
      float rest = 0, mean = 0;
      if (call.none && queries) {
        g[call.m] = 0;
        mean = dot_rows(phi, g, call.mw);
      } else if (queries) {
        rest = g[call.m];
      }
      const float epsilon = queries ? call.epsilon : 0.0f;  // phi of queries has it, E of keys has not
      V sum = hn::Zero(d), all = hn::Zero(d);
      for (int32_t j = 0; j < call.mw; j += kLanes) {
        const auto live = hn::FirstN(d, static_cast<size_t>(std::max(0, call.m - j)));
        V x = hn::Add(hn::Load(d, g + j), hn::Set(d, rest));
        if (call.none) x = hn::Sub(x, hn::Set(d, mean));
        x = hn::IfThenElseZero(live, x);
        all = hn::Add(all, x);
        const V e = slope ? hn::Load(d, slope + j) : hn::Max(hn::Zero(d), hn::Sub(hn::Load(d, phi + j), hn::Set(d, epsilon)));
        x = hn::Mul(x, hn::IfThenElseZero(live, e));
        sum = hn::Add(sum, x);
        hn::Store(x, d, g + j);
      }
      sums[r] = sum_of_lanes(sum);
      if (queries && call.softmax && !call.a.constant_stabilisers && side.rest[i] != 0)
        g[side.top_feature[i]] += call.epsilon * sum_of_lanes(all);
    }
    if (!call.none)
      product(false, rows, call.dw / kLanes, {.a = dphi + int64_t{begin} * call.mw, .a_stride = call.mw, .b = call.w, .b_stride = call.dw,
                                              .depth = call.m, .init = nullptr, .init_stride = 0, .c = tile, .c_stride = call.dw});
    for (int32_t r = 0; r < rows; ++r) {
      const float* HWY_RESTRICT from = call.none ? dphi + int64_t{begin + r} * call.mw : tile + r * call.dw;
      const float* HWY_RESTRICT x = side.x + int64_t{begin + r} * call.dw;
      float* HWY_RESTRICT out = row_pointer(to, b, first + begin + r, h);
      const V f = hn::Set(d, scale), pull = hn::Set(d, call.softmax ? scale * kLn2 * sums[r] : 0.0f);
      for_vectors(
          call.d,
          [&](int64_t i) HWY_ATTR { hn::StoreU(hn::NegMulAdd(pull, hn::Load(d, x + i), hn::Mul(f, hn::Load(d, from + i))), d, out + i); },
          [&](int64_t i, int32_t rest_count) HWY_ATTR {
            store_partial(hn::NegMulAdd(pull, hn::Load(d, x + i), hn::Mul(f, hn::Load(d, from + i))), out + i, rest_count);
          });
    }
  }
}

}  // namespace fovea::HWY_NAMESPACE::feature_attention
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
