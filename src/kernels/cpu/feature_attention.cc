// Attention on random features, forward. Features exist for a block of rows at a time, in cache: keys go into the sums
// S = sum phi(k) v^T, queries take from them. Over all keys both are tasks by head and span of the sequence. Causal order is a
// walk over blocks: pairs within a block are a masked product, earlier keys come from the sums.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/feature_attention.cc"
#include "kernels/cpu/feature_attention.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "kernels/cpu/feature_attention_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::feature_attention_file {

namespace {

using namespace feature_attention;  // NOLINT: one kernel, several files

// Memory of one thread.
struct Workspace {
  float *values, *out;        // (kBlock, vw)
  float *key_panels, *pairs;  // causal: (mw, kCausalBlock) and (kCausalBlock, kCausalBlock)
  float *c, *rest;            // (kBlock)
  float* weighted;            // causal: (kCausalBlock, mw)
  Side queries, keys;
  Workspace(Cutter cutter, const FeatureCall& call)
      : values(cutter.take<float>(int64_t{kBlock} * call.vw)),
        out(cutter.take<float>(int64_t{kBlock} * call.vw)),
        key_panels(cutter.take<float>(int64_t{call.mw} * kCausalBlock)),
        pairs(cutter.take<float>(kCausalBlock * kCausalBlock)),
        c(cutter.take<float>(kBlock)),
        rest(cutter.take<float>(kBlock)),
        weighted(cutter.take<float>(int64_t{kCausalBlock} * call.mw)),
        queries(cutter, call, kBlock, false),
        keys(cutter, call, kBlock, false) {
    queries.top_feature = nullptr;
  }
  static int64_t bytes(const FeatureCall& call) {
    return 2 * Cutter::bytes<float>(int64_t{kBlock} * call.vw) + Cutter::bytes<float>(int64_t{call.mw} * kCausalBlock) +
           Cutter::bytes<float>(kCausalBlock * kCausalBlock) + 2 * Cutter::bytes<float>(kBlock) +
           Cutter::bytes<float>(int64_t{kCausalBlock} * call.mw) + 2 * Side::bytes(call, kBlock, false);
  }
};

// Numerators (n, vw) and denominators become rows of the output.
void deliver(const FeatureCall& call, const Workspace& w, int32_t n, const float* denominators, float* inverse, int64_t b, int64_t h, int64_t first) {
  const D d;
  for (int32_t i = 0; i < n; ++i) {
    const float share = std::abs(denominators[i]) >= std::numeric_limits<float>::min() ? 1 / denominators[i] : 0.0f;
    if (inverse) inverse[i] = share;
    const float* HWY_RESTRICT o = w.out + i * call.vw;
    float* HWY_RESTRICT row = row_pointer(call.a.out, b, first + i, h);
    const V f = hn::Set(d, share);
    for_vectors(
        call.v, [&](int64_t j) HWY_ATTR { hn::StoreU(hn::Mul(f, hn::Load(d, o + j)), d, row + j); },
        [&](int64_t j, int32_t rest) HWY_ATTR { store_partial(hn::Mul(f, hn::Load(d, o + j)), row + j, rest); });
  }
}

void sum_keys(const FeatureCall& call, Workspace& w, const Sums& sums, int64_t b, int64_t h, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += kBlock)
    add_keys(call, sums, w.keys, w.values, b, h, first, static_cast<int32_t>(std::min<int64_t>(kBlock, end - first)));
}

// kNone over all keys: S becomes means, and 1 / z is what the backward needs in place of z.
void finish_means(const FeatureCall& call, const Sums& sums) {
  for (int32_t f = 0; f < call.m; ++f) {
    const float inverse = sums.z[f] > 0 ? 1 / sums.z[f] : 0.0f;
    scale_row_in_place(sums.s + int64_t{f} * call.vw, inverse, call.vw);
    sums.z[f] = inverse;
  }
}

void ask(const FeatureCall& call, Workspace& w, const Sums& sums, float* inverse, int64_t b, int64_t h, int64_t begin, int64_t end) {
  float denominators[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const auto n = static_cast<int32_t>(std::min<int64_t>(kBlock, end - first));
    project(call, call.a.q, b, h, first, n, w.queries);
    query_features(call, w.queries, n, nullptr);
    times(n, w.queries.phi, call.mw, sums.s, call.vw, call.vw, call.m + 1, nullptr, w.out, call.vw);
    // Means are divided already; without any key they are zero.
    for (int32_t i = 0; i < n; ++i) denominators[i] = call.means ? 1.0f : dot_rows(w.queries.phi + int64_t{i} * call.mw, sums.z, call.mw);
    deliver(call, w, n, denominators, inverse ? inverse + first : nullptr, b, h, first);
  }
}

// Tokens [begin, end) of a head in causal order; sums hold what comes before. `kept` (chunks) takes the sums before each chunk.
void walk(const FeatureCall& call, Workspace& w, const Sums& sums, float* kept, float* inverse, float* c, int64_t b, int64_t h, int64_t begin, int64_t end) {
  float denominators[kBlock];
  for (int64_t first = begin; first < end;) {
    if (kept && first % kChunk == 0) std::copy_n(sums.s, call.sums_elements(), kept + first / kChunk * call.sums_elements());
    const auto n = static_cast<int32_t>(std::min<int64_t>({kCausalBlock, end - first, kChunk - first % kChunk}));
    const CausalBlock block = load_block(call, w.keys, w.queries, w.c, w.rest, sums.relative[kStabiliser], b, h, first, n);
    if (c) std::copy_n(w.c, n, c + first);
    pack_rows(call.a.v, b, h, first, n, call.v, 1.0f, w.values, call.vw);
    // Keys of the block, pair by pair.
    clear_behind(w.keys.phi, n, call.mw);
    const plan::Pieces columns = block_columns(n);
    call.transpose_to_panels(w.keys.phi, call.mw, columns.begin(columns.pieces) * kLanes, columns, call.m, nullptr, w.key_panels);
    lower_product(n, w.queries.phi, call.mw, w.key_panels, columns, call.m, w.pairs);
    weigh_pairs(block, w.c, call.none ? nullptr : w.queries.rest, w.rest, w.pairs);
    // Keys before it, from the sums.
    weigh_rows(call, block, w.queries.phi, w.c, w.queries.rest, w.weighted, query_factor);
    times(n, w.weighted, call.mw, sums.s, call.vw, call.vw, call.m + 1, nullptr, w.out, call.vw);
    times(n, w.pairs, kCausalBlock, w.values, call.vw, call.vw, n, w.out, w.out, call.vw);
    for (int32_t i = 0; i < n; ++i) {
      denominators[i] = dot_rows(w.weighted + int64_t{i} * call.mw, sums.z, call.mw);
      for (int32_t j = 0; j <= i; ++j) denominators[i] += w.pairs[i * kCausalBlock + j];
    }
    deliver(call, w, n, denominators, inverse ? inverse + first : nullptr, b, h, first);

    sums.move(call, block.after);
    weigh_rows(call, block, w.keys.phi, w.c, w.rest, w.weighted, key_factor);
    add_transposed(call.mw, w.weighted, call.mw, w.values, call.vw, call.vw, n, sums.s, call.vw);
    for (int32_t i = 0; i < n; ++i) add_row(sums.z, 1.0f, w.weighted + int64_t{i} * call.mw, call.mw);
    first += n;
  }
}

void feature_attention(const FeatureAttentionArgs& a, Context& ctx) {
  if (a.batch == 0 || a.heads == 0) return;
  ArenaScope scope(ctx.scratch());
  FeatureCall call(a);
  call.prepare(ctx.scratch());
  const int64_t heads = a.batch * a.heads, size = call.sums_elements(), bytes = Workspace::bytes(call);
  char* memory = ctx.scratch().take<char>(bytes * ctx.pool().threads());
  const auto workspace = [&](int thread) { return Workspace(Cutter(memory + thread * bytes), call); };
  // Span 0 of a head becomes the sums over all keys or, causal, each span the sums before it.
  float* partial = ctx.scratch().take<float>(heads * call.spans * size);
  const auto sums_of = [&](int64_t head, int64_t span) { return Sums(partial + (head * call.spans + span) * size, call); };
  const auto for_spans = [&](auto&& f) {
    ctx.pool().for_ranges(call.tasks(), [&](int64_t from, int64_t to, int thread) {
      Workspace w = workspace(thread);
      for (int64_t task = from; task < to; ++task) f(w, task / call.spans, task % call.spans);
    });
  };
  const auto end_of = [&](int64_t span, int64_t tokens) { return std::min<int64_t>(tokens, (span + 1) * call.span); };

  for_spans([&](Workspace& w, int64_t head, int64_t span) {
    const Sums sums = sums_of(head, span);
    sums.clear(call);
    if (a.causal && a.whole_stabiliser && call.exponential) whole_stabiliser(call, w.keys, head / a.heads, head % a.heads, sums.relative);
    if (a.causal && span + 1 == call.spans) return;  // nobody is behind it
    sum_keys(call, w, sums, head / a.heads, head % a.heads, span * call.span, end_of(span, a.keys));
  });
  const State state(call);
  ctx.pool().for_each(heads, [&](int64_t head) {
    const Sums first = sums_of(head, 0);
    if (!a.causal) {
      for (int64_t span = 1; span < call.spans; ++span) add_later(call, first, sums_of(head, span));
      if (call.means) finish_means(call, first);
      if (a.state) std::copy_n(first.s, size, state.sums + head * size);
      return;
    }
    // From the last span down each takes over the one before it, then sums run upwards.
    for (int64_t span = call.spans - 1; span > 0; --span) std::copy_n(sums_of(head, span - 1).s, size, sums_of(head, span).s);
    const float before = a.whole_stabiliser && call.exponential ? first.relative[kStabiliser] : kNegInf, token = first.relative[kToken];
    first.clear(call);
    first.relative[kStabiliser] = before;
    first.relative[kToken] = token;
    first.z[call.m] = call.causal_epsilon;
    for (int64_t span = 1; span < call.spans; ++span) {
      const Sums sums = sums_of(head, span), earlier = sums_of(head, span - 1);
      const float to = std::max(sums.relative[kStabiliser], earlier.relative[kStabiliser]);
      sums.move(call, to);
      if (earlier.relative[kStabiliser] != kNegInf) {
        const float rescale = exp2(earlier.relative[kStabiliser] - to);
        const int64_t own = int64_t{call.m} * call.vw;
        add_row(sums.s, rescale, earlier.s, own);
        add_row(sums.s + own, 1.0f, earlier.s + own, int64_t{call.mw} * call.vw - own);
        for (int32_t f = 0; f < call.m; ++f) sums.z[f] += rescale * earlier.z[f];
      }
      for (int32_t f = call.m; f < call.mw; ++f) sums.z[f] += earlier.z[f];
    }
  });
  for_spans([&](Workspace& w, int64_t head, int64_t span) {
    const int64_t b = head / a.heads, h = head % a.heads, begin = span * call.span, end = end_of(span, a.queries);
    float* inverse = a.state ? state.inverse + head * a.queries : nullptr;
    if (!a.causal) return ask(call, w, sums_of(head, 0), inverse, b, h, begin, end);
    walk(call, w, sums_of(head, span), a.state ? state.sums + head * call.chunks() * size : nullptr, inverse,
         a.state ? state.c + head * a.queries : nullptr, b, h, begin, end);
  });
}

int64_t feature_attention_state(const FeatureAttentionArgs& a) { return State::elements(FeatureCall(a)); }

}  // namespace

void fill(KernelTable& t) {
  t.feature_attention = feature_attention;
  t.feature_attention_state = feature_attention_state;
}

}  // namespace fovea::HWY_NAMESPACE::feature_attention_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_feature_attention(KernelTable& t, Isa isa) {
  FOVEA_FILL(t, isa, feature_attention_file);
  fill_feature_attention_backward(t, isa);
}
}  // namespace fovea
#endif
