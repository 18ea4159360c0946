// Attention on random features, backward. Features are computed anew for each block of rows. Over all keys: queries leave the
// sums R = sum phi(q) dn^T, keys take from them. Causal: a chunk walks forwards from the sums that the forward kept, for the
// queries' gradients, then backwards with the sums over later queries, for the keys'.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/feature_attention_backward.cc"
#include "kernels/cpu/feature_attention.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "kernels/cpu/feature_attention_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::feature_attention_backward_file {

namespace {

using namespace feature_attention;  // NOLINT: one kernel, several files

constexpr int32_t kChunkRows = kChunk + kLanes;  // and what a transposition may read behind them

// Memory of one thread. Rows of v and of dn have one more column: 1, and dD.
struct Workspace {
  int32_t width;            // of those rows
  int32_t rows;             // at a time: a block over all keys, a chunk in causal order
  float *values, *dn;       // (rows, width)
  float *dphi, *dv, *tile;  // (kBlock, mw), (kBlock, vw), (kTileRows, dw)
  float *panels, *block_panels, *nothing;  // (v + 1, mw), (mw, kCausalBlock), (mw) zeros
  float *pairs, *dpairs;    // causal: (rows, kCausalBlock)
  float *c, *rest;          // (rows)
  float* weighted;          // (kBlock, mw)
  CausalBlock* blocks;      // (rows)
  Side queries, keys;

  static int32_t width_of(const FeatureCall& call) { return static_cast<int32_t>(plan::round_up(call.v + 1, kLanes)); }
  static int32_t rows_of(const FeatureCall& call) { return call.a.causal ? kChunkRows : kBlock; }
  Workspace(Cutter cutter, const FeatureCall& call)
      : width(width_of(call)),
        rows(rows_of(call)),
        values(cutter.take<float>(int64_t{rows} * width)),
        dn(cutter.take<float>(int64_t{rows} * width)),
        dphi(cutter.take<float>(int64_t{kBlock} * call.mw)),
        dv(cutter.take<float>(int64_t{kBlock} * call.vw)),
        tile(cutter.take<float>(int64_t{kTileRows} * call.dw)),
        panels(cutter.take<float>(call.panel_elements())),
        block_panels(cutter.take<float>(int64_t{std::max(call.mw, width)} * kCausalBlock)),
        nothing(cutter.take<float>(call.mw)),
        pairs(cutter.take<float>(int64_t{rows} * kCausalBlock)),
        dpairs(cutter.take<float>(int64_t{rows} * kCausalBlock)),
        c(cutter.take<float>(rows)),
        rest(cutter.take<float>(rows)),
        weighted(cutter.take<float>(int64_t{kBlock} * call.mw)),
        blocks(cutter.take<CausalBlock>(rows)),
        queries(cutter, call, rows, true),
        keys(cutter, call, rows, true) {
    std::fill_n(nothing, call.mw, 0.0f);
  }
  static int64_t bytes(const FeatureCall& call) {
    const int64_t n = rows_of(call), w = width_of(call);
    return 2 * Cutter::bytes<float>(n * w) + Cutter::bytes<float>(int64_t{kBlock} * call.mw) + Cutter::bytes<float>(int64_t{kBlock} * call.vw) +
           Cutter::bytes<float>(int64_t{kTileRows} * call.dw) + Cutter::bytes<float>(call.panel_elements()) +
           Cutter::bytes<float>(std::max<int64_t>(call.mw, w) * kCausalBlock) + Cutter::bytes<float>(call.mw) +
           2 * Cutter::bytes<float>(n * kCausalBlock) + 2 * Cutter::bytes<float>(n) +
           Cutter::bytes<float>(int64_t{kBlock} * call.mw) + Cutter::bytes<CausalBlock>(n) +
           2 * Side::bytes(call, static_cast<int32_t>(n), true);
  }
};

// dn = g / D and, in column v, dD = -(g · o) / D.
void upstream(const FeatureCall& call, const FeatureAttentionBackwardArgs& args, int32_t width, const float* inverse, int64_t b, int64_t h,
              int64_t first, int32_t n, float* dn) {
  const D d;
  pack_rows(args.dout, b, h, first, n, call.v, 1.0f, dn, width);
  for (int32_t i = 0; i < n; ++i) {
    const float* HWY_RESTRICT o = row_pointer(ConstHeadsView(call.a.out), b, first + i, h);
    float* HWY_RESTRICT row = dn + int64_t{i} * width;
    V along = hn::Zero(d);
    for_vectors(
        call.v, [&](int64_t j) HWY_ATTR { along = hn::MulAdd(hn::Load(d, row + j), hn::LoadU(d, o + j), along); },
        [&](int64_t j, int32_t rest) HWY_ATTR { along = hn::MulAdd(hn::Load(d, row + j), load_partial(o + j, rest), along); });
    const float total = sum_of_lanes(along);
    std::fill(row + call.v, row + width, 0.0f);
    scale_row_in_place(row, inverse[first + i], width);
    row[call.v] = -total * inverse[first + i];
  }
}

void load_values(const FeatureCall& call, int32_t width, int64_t b, int64_t h, int64_t first, int32_t n, float* values) {
  pack_rows(call.a.v, b, h, first, n, call.v, 1.0f, values, width);
  for (int32_t i = 0; i < n; ++i) {
    float* row = values + int64_t{i} * width;
    std::fill(row + call.v, row + width, 0.0f);
    row[call.v] = 1.0f;
  }
}

void store_rows(const FeatureCall& call, const float* from, int32_t n, const HeadsView& to, int64_t b, int64_t h, int64_t first) {
  const D d;
  for (int32_t i = 0; i < n; ++i) {
    const float* HWY_RESTRICT src = from + int64_t{i} * call.vw;
    float* HWY_RESTRICT row = row_pointer(to, b, first + i, h);
    for_vectors(
        call.v, [&](int64_t j) HWY_ATTR { hn::StoreU(hn::Load(d, src + j), d, row + j); },
        [&](int64_t j, int32_t rest) HWY_ATTR { store_partial(hn::Load(d, src + j), row + j, rest); });
  }
}

// R += phi(q) dn^T, r += phi(q) dD.
void add_queries(const FeatureCall& call, const Sums& sums, const float* phi, const float* dn, int32_t width, int32_t n) {
  add_transposed(call.mw, phi, call.mw, dn, width, call.vw, n, sums.s, call.vw);
  for (int32_t i = 0; i < n; ++i) add_row(sums.z, dn[int64_t{i} * width + call.v], phi + int64_t{i} * call.mw, call.mw);
}

// ---- over all keys --------------------------------------------------------------------------------------------------

// Queries [begin, end): dq, and what they leave for the keys. `gradient` takes what the keys' stabiliser gets.
void queries_task(const FeatureCall& call, const FeatureAttentionBackwardArgs& args, Workspace& w, const Sums& keys, const float* inverse,
                  const Sums& sums, float& gradient, int64_t b, int64_t h, int64_t begin, int64_t end) {
  // A mean's denominator is one whatever the keys are.
  call.transpose_to_panels(keys.s, call.vw, call.mw, call.pieces, call.v, call.means ? w.nothing : keys.z, w.panels);
  for (int64_t first = begin; first < end; first += kBlock) {
    const auto n = static_cast<int32_t>(std::min<int64_t>(kBlock, end - first));
    project(call, call.a.q, b, h, first, n, w.queries);
    query_features(call, w.queries, n, nullptr);
    upstream(call, args, w.width, inverse, b, h, first, n, w.dn);
    add_queries(call, sums, w.queries.phi, w.dn, w.width, n);
    times_panels(n, w.dn, w.width, w.panels, call.pieces, call.v + 1, nullptr, 0, w.dphi, call.mw, [](int32_t, int32_t) {});
    for (int32_t i = 0; i < n; ++i) gradient += w.queries.phi[int64_t{i} * call.mw + call.m] * w.dphi[int64_t{i} * call.mw + call.m];
    rows_backward(call, w.queries, n, true, w.dphi, w.tile, args.dq, b, h, first);
  }
}

// Keys [begin, end): dk and dv.
void keys_task(const FeatureCall& call, const FeatureAttentionBackwardArgs& args, Workspace& w, const Sums& keys, const Sums& sums, int64_t b,
               int64_t h, int64_t begin, int64_t end) {
  call.transpose_to_panels(sums.s, call.vw, call.mw, call.pieces, call.v, sums.z, w.panels);
  for (int64_t first = begin; first < end; first += kBlock) {
    const auto n = static_cast<int32_t>(std::min<int64_t>(kBlock, end - first));
    project(call, call.a.k, b, h, first, n, w.keys);
    key_features(call, w.keys, n, padding_at(call, b, first), keys.relative, nullptr);
    load_values(call, w.width, b, h, first, n, w.values);
    times(n, w.keys.phi, call.mw, sums.s, call.vw, call.vw, call.m + 1, nullptr, w.dv, call.vw);
    store_rows(call, w.dv, n, args.dv, b, h, first);
    times_panels(n, w.values, w.width, w.panels, call.pieces, call.v + 1, nullptr, 0, w.dphi, call.mw, [](int32_t, int32_t) {});
    rows_backward(call, w.keys, n, false, w.dphi, w.tile, args.dk, b, h, first);
  }
}

// ---- causal ---------------------------------------------------------------------------------------------------------

// The sums over the queries [begin, end) relative to the stabiliser before them.
void later_queries(const FeatureCall& call, const FeatureAttentionBackwardArgs& args, Workspace& w, const float* inverse, const float* c,
                   const Sums& sums, int64_t b, int64_t h, int64_t begin, int64_t end) {
  const float reference = sums.relative[kStabiliser] = c[begin - 1];
  if (reference == kNegInf) return;  // no key is before them
  for (int64_t first = begin; first < end; first += kBlock) {
    const auto n = static_cast<int32_t>(std::min<int64_t>(kBlock, end - first));
    project(call, call.a.q, b, h, first, n, w.queries);
    query_features(call, w.queries, n, c + first);
    upstream(call, args, w.width, inverse, b, h, first, n, w.dn);
    const CausalBlock block{first, n, reference, reference, false};
    weigh_rows(call, block, w.queries.phi, c + first, w.queries.rest, w.weighted, query_factor);
    add_queries(call, sums, w.weighted, w.dn, w.width, n);
  }
}

// Panels of sums over keys, from relative to one stabiliser to relative to another, but for the rest.
void move_panels(const FeatureCall& call, float* panels, float from, float to) {
  const D d;
  if (from == to || from == kNegInf) return;
  const V rescale = hn::Set(d, exp2(from - to));
  for (int32_t p = 0; p < call.pieces.pieces; ++p) {
    const int32_t begin = call.pieces.begin(p) * kLanes, width = call.pieces.begin(p + 1) * kLanes - begin;
    for (int32_t r = 0; r <= call.v; ++r)
      for (int32_t j = 0; j < width; j += kLanes) {
        float* x = panels + int64_t{begin} * (call.v + 1) + int64_t{r} * width + j;
        const V old = hn::Load(d, x);
        const auto live = hn::FirstN(d, static_cast<size_t>(std::max(0, call.m - begin - j)));
        hn::Store(hn::IfThenElse(live, hn::Mul(old, rescale), old), d, x);
      }
  }
}

// Gradients of weighted features become those of the features themselves; the rest's stays.
template <class Factor>
void weigh_gradients(const FeatureCall& call, const CausalBlock& block, const float* c, float* dphi, Factor&& factor) {
  if (block.level) return;
  for (int32_t i = 0; i < block.n; ++i) {
    float* row = dphi + int64_t{i} * call.mw;
    const float rest = row[call.m];
    scale_row_in_place(row, factor(block, c[i]), call.mw);
    row[call.m] = rest;
  }
}

// Tokens [begin, end), a chunk: from the sums `before` it and those over the queries behind it, which move to its begin.
// gradients (tokens) takes what each query gives to the stabiliser at its place.
void chunk_task(const FeatureCall& call, const FeatureAttentionBackwardArgs& args, Workspace& w, const Sums& before, const float* inverse,
                const Sums& later, float* gradients, int64_t b, int64_t h, int64_t begin, int64_t end) {
  call.transpose_to_panels(before.s, call.vw, call.mw, call.pieces, call.v, before.z, w.panels);
  float reference = before.relative[kStabiliser];
  int32_t blocks = 0;
  for (int64_t first = begin; first < end; ++blocks) {
    const auto at = static_cast<int32_t>(first - begin), n = static_cast<int32_t>(std::min<int64_t>(kCausalBlock, end - first));
    const Side keys = w.keys.from(call, at), queries = w.queries.from(call, at);
    float *values = w.values + int64_t{at} * w.width, *dn = w.dn + int64_t{at} * w.width, *c = w.c + at, *rest = w.rest + at;
    float *pairs = w.pairs + int64_t{at} * kCausalBlock, *dpairs = w.dpairs + int64_t{at} * kCausalBlock;
    const CausalBlock block = w.blocks[blocks] = load_block(call, keys, queries, c, rest, reference, b, h, first, n);
    upstream(call, args, w.width, inverse, b, h, first, n, dn);
    load_values(call, w.width, b, h, first, n, values);
    clear_behind(keys.phi, n, call.mw);
    clear_behind(values, n, w.width);

    // Keys before the block, from the sums.
    times_panels(n, dn, w.width, w.panels, call.pieces, call.v + 1, nullptr, 0, w.dphi, call.mw, [](int32_t, int32_t) {});
    weigh_gradients(call, block, c, w.dphi, query_factor);
    // Keys of the block, pair by pair: what the rest takes first, then the factors.
    const plan::Pieces columns = block_columns(n);
    const int32_t padded = columns.begin(columns.pieces) * kLanes;
    call.transpose_to_panels(keys.phi, call.mw, padded, columns, call.m, nullptr, w.block_panels);
    lower_product(n, queries.phi, call.mw, w.block_panels, columns, call.m, pairs);
    weigh_pairs(block, c, call.none ? nullptr : queries.rest, rest, pairs);
    call.transpose_to_panels(values, w.width, padded, columns, call.v + 1, nullptr, w.block_panels);
    lower_product(n, dn, w.width, w.block_panels, columns, call.v + 1, dpairs);
    for (int32_t i = 0; i < n; ++i)
      for (int32_t j = 0; j <= i; ++j) w.dphi[int64_t{i} * call.mw + call.m] += dpairs[i * kCausalBlock + j] * rest[j];
    weigh_pairs(block, c, nullptr, nullptr, dpairs);
    times(n, dpairs, kCausalBlock, keys.phi, call.mw, call.mw, n, w.dphi, w.dphi, call.mw);
    for (int32_t i = 0; i < n; ++i) gradients[first + i] = queries.rest[i] * w.dphi[int64_t{i} * call.mw + call.m];
    rows_backward(call, queries, n, true, w.dphi, w.tile, args.dq, b, h, first);

    move_panels(call, w.panels, reference, block.after);
    reference = block.after;
    weigh_rows(call, block, keys.phi, c, rest, w.weighted, key_factor);
    for (int32_t p = 0; p < call.pieces.pieces; ++p) {
      const int32_t from = call.pieces.begin(p) * kLanes, width = call.pieces.begin(p + 1) * kLanes - from;
      add_transposed(call.v + 1, values, w.width, w.weighted + from, call.mw, width, n, w.panels + int64_t{from} * (call.v + 1), width);
    }
    first += n;
  }

  while (blocks-- > 0) {
    const CausalBlock& block = w.blocks[blocks];
    const auto at = static_cast<int32_t>(block.first - begin);
    const int32_t n = block.n;
    const Side keys = w.keys.from(call, at), queries = w.queries.from(call, at);
    const float *values = w.values + int64_t{at} * w.width, *dn = w.dn + int64_t{at} * w.width, *c = w.c + at, *rest = w.rest + at;
    const float *pairs = w.pairs + int64_t{at} * kCausalBlock, *dpairs = w.dpairs + int64_t{at} * kCausalBlock;
    call.transpose_to_panels(later.s, call.vw, call.mw, call.pieces, call.v, later.z, w.panels);
    times_panels(n, values, w.width, w.panels, call.pieces, call.v + 1, nullptr, 0, w.dphi, call.mw, [](int32_t, int32_t) {});
    weigh_gradients(call, block, c, w.dphi, key_factor);
    add_transposed(n, dpairs, kCausalBlock, queries.phi, call.mw, call.mw, n, w.dphi, call.mw);
    weigh_rows(call, block, keys.phi, c, rest, w.weighted, key_factor);
    times(n, w.weighted, call.mw, later.s, call.vw, call.vw, call.m + 1, nullptr, w.dv, call.vw);
    add_transposed(n, pairs, kCausalBlock, dn, w.width, call.vw, n, w.dv, call.vw);
    store_rows(call, w.dv, n, args.dv, b, h, block.first);
    rows_backward(call, keys, n, false, w.dphi, w.tile, args.dk, b, h, block.first);

    later.move_back(call, block.before);
    weigh_rows(call, block, queries.phi, c, queries.rest, w.weighted, query_factor);
    add_queries(call, later, w.weighted, dn, w.width, n);
  }
}

// dk of a token += gradient · d(its largest u)/dk.
void stabiliser_backward(const FeatureCall& call, Workspace& w, const HeadsView& dk, float gradient, int64_t b, int64_t h, int64_t token) {
  project(call, call.a.k, b, h, token, 1, w.keys);
  const float* u = w.keys.phi;
  const float* row = call.w + (std::max_element(u, u + call.m) - u) * call.dw;
  float* to = row_pointer(dk, b, token, h);
  for (int32_t i = 0; i < call.d; ++i) to[i] += gradient * static_cast<float>(call.a.input_scale) * row[i];
}

// ---- the call -------------------------------------------------------------------------------------------------------

struct Backward {
  const FeatureCall& call;
  const FeatureAttentionBackwardArgs& args;
  Context& ctx;
  State state;
  char* memory;
  int64_t size, slots;  // of sums; sums of a head
  float* partial;       // (heads, slots) sums over queries
  float* gradients;     // (heads, spans) or, causal, (heads, tokens): what queries give to the keys' stabiliser

  Backward(const FeatureCall& c, const FeatureAttentionBackwardArgs& a, Context& context)
      : call(c), args(a), ctx(context), state(c), memory(nullptr), size(c.sums_elements()), slots(c.spans + 1) {
    Arena& arena = ctx.scratch();
    memory = arena.take<char>(Workspace::bytes(call) * ctx.pool().threads());
    partial = arena.take<float>(heads() * slots * size);
    gradients = arena.take<float>(heads() * (call.a.causal ? call.a.queries : call.spans));
  }
  int64_t heads() const { return call.a.batch * call.a.heads; }
  int64_t b(int64_t head) const { return head / call.a.heads; }
  int64_t h(int64_t head) const { return head % call.a.heads; }
  Workspace workspace(int thread) const { return Workspace(Cutter(memory + thread * Workspace::bytes(call)), call); }
  Sums sums(int64_t head, int64_t slot) const { return Sums(partial + (head * slots + slot) * size, call); }
  int64_t begin(int64_t span) const { return span * call.span; }
  int64_t end(int64_t span, int64_t tokens) const { return std::min<int64_t>(tokens, (span + 1) * call.span); }
  const float* inverse(int64_t head) const { return state.inverse + head * call.a.queries; }
  bool differentiates() const { return call.softmax && call.stabiliser_matters && !call.a.constant_stabilisers; }

  template <class F>
  void for_spans(F&& f) const {
    ctx.pool().for_ranges(call.tasks(), [&](int64_t from, int64_t to, int thread) {
      Workspace w = workspace(thread);
      for (int64_t task = from; task < to; ++task) f(w, task / call.spans, task % call.spans);
    });
  }
  template <class F>
  void for_heads(F&& f) const {
    ctx.pool().for_ranges(heads(), [&](int64_t from, int64_t to, int thread) {
      Workspace w = workspace(thread);
      for (int64_t head = from; head < to; ++head) f(w, head);
    });
  }

  void over_all_keys() const {
    const auto kept = [&](int64_t head) { return Sums(state.sums + head * size, call); };
    for_spans([&](Workspace& w, int64_t head, int64_t span) {
      const Sums own = sums(head, span);
      own.clear(call);
      float& gradient = gradients[head * call.spans + span];
      gradient = 0;
      queries_task(call, args, w, kept(head), inverse(head), own, gradient, b(head), h(head), begin(span), end(span, call.a.queries));
    });
    ctx.pool().for_each(heads(), [&](int64_t head) {
      const Sums all = sums(head, 0), keys = kept(head);
      for (int64_t span = 1; span < call.spans; ++span) all.add(call, sums(head, span));
      if (!call.means) return;
      // S_f is a mean: its weights' gradients sum to zero, as a softmax's do. keys.z holds 1 / z.
      for (int32_t f = 0; f < call.m; ++f) {
        float *row = all.s + int64_t{f} * call.vw, *mean = keys.s + int64_t{f} * call.vw;
        scale_row_in_place(row, keys.z[f], call.vw);
        all.z[f] = 0;
        for (int32_t i = 0; i < call.v; ++i) all.z[f] -= row[i] * mean[i];
      }
    });
    for_spans([&](Workspace& w, int64_t head, int64_t span) {
      keys_task(call, args, w, kept(head), sums(head, 0), b(head), h(head), begin(span), end(span, call.a.keys));
    });
    if (!differentiates()) return;
    for_heads([&](Workspace& w, int64_t head) {
      float gradient = 0;
      for (int64_t span = 0; span < call.spans; ++span) gradient += gradients[head * call.spans + span];
      const Sums keys = kept(head);
      if (keys.relative[kStabiliser] == kNegInf) return;
      stabiliser_backward(call, w, args.dk, gradient, b(head), h(head), static_cast<int64_t>(keys.relative[kToken]));
    });
  }

  void causal() const {
    const int64_t tokens = call.a.keys;
    if (tokens == 0) return;
    const auto c = [&](int64_t head) { return state.c + head * tokens; };
    // Slot s + 1 of a head: the sums over the queries behind span s, relative to the stabiliser at its end.
    for_spans([&](Workspace& w, int64_t head, int64_t span) {
      const Sums own = sums(head, span);
      own.clear(call);
      if (span + 1 == call.spans) sums(head, span + 1).clear(call);
      if (span > 0) later_queries(call, args, w, inverse(head), c(head), own, b(head), h(head), begin(span), end(span, tokens));
    });
    ctx.pool().for_each(heads(), [&](int64_t head) {
      for (int64_t slot = call.spans - 1; slot > 0; --slot) {
        const Sums own = sums(head, slot), behind = sums(head, slot + 1);
        if (own.relative[kStabiliser] == kNegInf || behind.relative[kStabiliser] == kNegInf) continue;
        const float rescale = exp2(own.relative[kStabiliser] - behind.relative[kStabiliser]);
        const int64_t real = int64_t{call.m} * call.vw;
        add_row(own.s, rescale, behind.s, real);
        add_row(own.s + real, 1.0f, behind.s + real, int64_t{call.mw} * call.vw - real);
        for (int32_t f = 0; f < call.mw; ++f) own.z[f] += (f < call.m ? rescale : 1.0f) * behind.z[f];
      }
    });
    for_spans([&](Workspace& w, int64_t head, int64_t span) {
      const Sums later = sums(head, span + 1);
      const int64_t last = end(span, tokens);
      for (int64_t chunk = (last - 1) / kChunk; chunk >= begin(span) / kChunk; --chunk)
        chunk_task(call, args, w, Sums(state.sums + (head * call.chunks() + chunk) * size, call), inverse(head), later,
                   gradients + head * tokens, b(head), h(head), chunk * kChunk, std::min<int64_t>(last, (chunk + 1) * kChunk));
    });
    if (!differentiates()) return;
    for_heads([&](Workspace& w, int64_t head) {
      float carry = 0;
      for (int64_t t = tokens - 1; t >= 0; --t) {
        carry += gradients[head * tokens + t];
        if (call.a.whole_stabiliser || !(c(head)[t] > (t == 0 ? kNegInf : c(head)[t - 1]))) continue;
        stabiliser_backward(call, w, args.dk, carry, b(head), h(head), t);
        carry = 0;
      }
      const Sums first(state.sums + head * call.chunks() * size, call);
      if (call.a.whole_stabiliser && first.relative[kStabiliser] != kNegInf)
        stabiliser_backward(call, w, args.dk, carry, b(head), h(head), static_cast<int64_t>(first.relative[kToken]));
    });
  }
};

// With n_i the numerator and D_i the denominator of o_i = n_i / D_i: dn_i = g_i / D_i, dD_i = -(g_i · o_i) / D_i;
// dphi(q_i) = S dn_i + z dD_i; with R = sum phi(q_i) dn_i^T and r = sum phi(q_i) dD_i over the queries that see key j:
// dphi(k_j) = R v_j + r, dv_j = R^T phi(k_j). docs/numerics.md derives what the stabilisers take.
void feature_attention_backward(const FeatureAttentionBackwardArgs& args, Context& ctx) {
  const FeatureAttentionArgs& a = args.forward;
  if (a.batch == 0 || a.heads == 0) return;
  ArenaScope scope(ctx.scratch());
  FeatureCall call(a);
  call.prepare(ctx.scratch());
  const Backward backward(call, args, ctx);
  if (a.causal)
    backward.causal();
  else
    backward.over_all_keys();
}

}  // namespace

void fill(KernelTable& t) { t.feature_attention_backward = feature_attention_backward; }

}  // namespace fovea::HWY_NAMESPACE::feature_attention_backward_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_feature_attention_backward(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, feature_attention_backward_file); }
}  // namespace fovea
#endif
