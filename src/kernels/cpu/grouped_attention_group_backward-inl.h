// One group's part of grouped attention's backward: its scores again, and the five products. What it is told to give and where several
// groups' sums meet is decided in grouped_attention_backward.cc.

#if defined(FOVEA_GROUPED_ATTENTION_GROUP_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_GROUP_BACKWARD_INL_H_
#undef FOVEA_GROUPED_ATTENTION_GROUP_BACKWARD_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_GROUP_BACKWARD_INL_H_
#endif

#include <optional>
#include <utility>

#include "kernels/cpu/grouped_attention_relative_backward-inl.h"
#include "kernels/cpu/jit_attention_backward.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_backward_file {

using namespace grouped_attention_tile;  // NOLINT: one kernel, several files

constexpr int32_t kBlockQueries = 96;
constexpr int32_t kStretchBlocks = 11;  // query blocks of a stretch, about a thousand queries
constexpr int32_t kBlockKeys = 128;

// What a call's tasks share beside the forward's Call.
struct BackwardCall {
  const GroupedAttentionBackwardArgs& args;
  Call call;
  bool assign_dq = false, assign_dkv = false;  // each row is written exactly once: no zeros first, no adding
  bool marks_rows = false;  // else: the first to write a row assigns it, since one task has all of a head's groups
  bool marks_queries() const { return marks_rows && !assign_dq; }
  bool marks_keys() const { return marks_rows && !assign_dkv; }
  int32_t block_keys = 0;
  std::optional<RelativeCall> relative = {};
  const RelativeCall* relative_call() const { return relative ? &*relative : nullptr; }
};

// One head's dbias tables with rows padded to whole vectors, one behind the other.
inline int64_t padded_row(const TokenGroups::Bias& b) { return plan::round_up(b.keys, kLanes); }
inline int64_t padded_elements(const TokenGroups& groups, size_t tables) {
  int64_t n = 0;
  for (size_t i = 0; i < tables; ++i) n += groups.biases[i].queries * padded_row(groups.biases[i]);
  return n;
}

// Where a chunk collects what several of its tasks' groups share.
struct Shared {
  float* dbias = nullptr;  // one head's tables with padded rows; null: they are added to the caller's, if any
  float *dpad_k = nullptr, *dpad_v = nullptr;  // (width), dpad_k still to be multiplied by ln 2
  float *dk = nullptr, *dv = nullptr;          // (max_keys, width) a part's share, dk likewise; null: rows get theirs at once
  RelativeSums relative = {};
};

struct Workspace {
  int32_t* codes;         // (queries)
  float *lse, *delta;     // (queries) in base 2; +inf where a row has no key
  float *q, *g, *dq;      // (queries, width); dq without the scale
  float *keys, *dk, *dv;  // (block keys, width)
  float* values_t;        // panels
  float *p, *ds;          // (kBlockQueries, block keys)
  uint8_t *written_queries = nullptr, *written_keys = nullptr;  // whether a row of the head has something; null: it has, or zeros
  KeyBlock block;
  RelativeWorkspace relative;
  RelativeBackwardWorkspace relative_backward;

  Workspace(Cutter c, int64_t queries, const BackwardCall& bc)
      : Workspace(c, queries, bc.block_keys, bc.call.a.head_dim, bc.call.width, bc.call.exclusions, bc.relative_call()) {}
  static int64_t bytes(int64_t queries, const BackwardCall& bc) {
    const int64_t block_keys = bc.block_keys, head_dim = bc.call.a.head_dim, width = bc.call.width;
    return 3 * Cutter::bytes<float>(queries) + 3 * Cutter::bytes<float>(queries * width) +
           3 * Cutter::bytes<float>(block_keys * width) + Cutter::bytes<float>(block_keys * head_dim) +
           2 * Cutter::bytes<float>(kBlockQueries * block_keys) + KeyBlock::bytes(block_keys, head_dim, bc.call.exclusions) +
           RelativeWorkspace::bytes(bc.relative_call(), queries, block_keys, kTileRows, width) +
           RelativeBackwardWorkspace::bytes(bc.relative_call(), queries, kBlockQueries, width);
  }

 private:
  Workspace(Cutter c, int64_t queries, int64_t block_keys, int64_t head_dim, int64_t width, int64_t exclusions,
            const RelativeCall* relative_call)
      : codes(c.take<int32_t>(queries)),
        lse(c.take<float>(queries)),
        delta(c.take<float>(queries)),
        q(c.take<float>(queries * width)),
        g(c.take<float>(queries * width)),
        dq(c.take<float>(queries * width)),
        keys(c.take<float>(block_keys * width)),
        dk(c.take<float>(block_keys * width)),
        dv(c.take<float>(block_keys * width)),
        values_t(c.take<float>(block_keys * head_dim)),
        p(c.take<float>(kBlockQueries * block_keys)),
        ds(c.take<float>(kBlockQueries * block_keys)),
        block(c, block_keys, head_dim, exclusions),
        relative(c, relative_call, queries, block_keys, kTileRows, width),
        relative_backward(c, relative_call, queries, kBlockQueries, width) {}
};

inline float dot(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, int64_t n) {
  const D d;
  V sum = hn::Zero(d);
  for_vectors(
      n, [&](int64_t i) HWY_ATTR { sum = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum); },
      [&](int64_t i, int32_t r) HWY_ATTR { sum = hn::MulAdd(load_partial(x + i, r), load_partial(y + i, r), sum); });
  return sum_of_lanes(sum);
}

// row = factor * x, or added to it.
inline void put_row(float* HWY_RESTRICT row, const float* HWY_RESTRICT x, float factor, int64_t n, bool assign) {
  const D d;
  const V f = hn::Set(d, factor);
  if (assign) {
    for_vectors(
        n, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(f, hn::Load(d, x + i)), d, row + i); },
        [&](int64_t i, int32_t r) HWY_ATTR { store_partial(hn::Mul(f, hn::Load(d, x + i)), row + i, r); });
  } else {
    for_vectors(
        n, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::MulAdd(f, hn::Load(d, x + i), hn::LoadU(d, row + i)), d, row + i); },
        [&](int64_t i, int32_t r) HWY_ATTR {
          store_partial(hn::MulAdd(f, hn::Load(d, x + i), load_partial(row + i, r)), row + i, r);
        });
  }
}

// True once for each row.
inline bool is_first(uint8_t* written, int32_t row) { return written != nullptr && std::exchange(written[row], uint8_t{1}) == 0; }

inline float* head_row(const HeadsView& v, int64_t b, int64_t h, int64_t row) {
  return static_cast<float*>(v.data) + b * v.batch_stride + h * v.head_stride + row * v.token_stride;
}

// A group for one head and batch element.
class GroupBackward {
 public:
  GroupBackward(const BackwardCall& bc, Workspace& w, const TokenGroups::Group& group, int64_t b, int64_t h)
      : bc_(bc),
        call_(bc.call),
        a_(bc.call.a),
        w_(w),
        group_(group),
        b_(b),
        h_(h),
        query_blocks_(group.queries, kBlockQueries),
        key_blocks_(call_.vectors(group.keys), bc.block_keys / kLanes),
        generated_(kLanes == 16 && !bc.relative && plain_scores(call_, group) && jit_gradient_tile(1, 1) != nullptr) {}

  int32_t query_blocks() const { return query_blocks_.pieces; }

  // Calls f(begin, end) for stretches of the query blocks [begin, end); once at least, since keys without queries get zeros.
  template <class F>
  void for_stretches(int32_t begin, int32_t end, F&& f) {
    const plan::Pieces stretches(end - begin, kStretchBlocks);
    fresh_keys_ = true;
    for (int32_t i = 0; i < stretches.pieces; ++i) {
      f(begin + stretches.begin(i), begin + stretches.begin(i + 1));
      fresh_keys_ = false;
    }
  }
  int32_t key_blocks() const { return group_.keys > 0 ? key_blocks_.pieces : 0; }

  // Packs query blocks [begin, end), a stretch at most. per_row (queries): merged lse under kMergeLse, slot counts under kMean.
  void load_queries(int32_t begin, int32_t end, const float* per_row) {
    first_block_ = begin;
    last_block_ = end;
    first_ = query_blocks_.begin(begin);
    n_ = query_blocks_.begin(end) - first_;
    plan::SlotCursor cursor(call_.groups, group_.query_runs);
    cursor.skip(first_);
    cursor.read(n_, w_.codes);
    const Reduction reduction = call_.groups.reduction;
    const Rows q_rows(a_.q, {}, nullptr, a_.head_dim, b_, h_);
    const Rows g_rows(bc_.args.dout, {}, nullptr, a_.head_dim, b_, h_);
    const Rows o_rows(a_.out, {}, nullptr, a_.head_dim, b_, h_);
    const float* lse = static_cast<const float*>(a_.lse) + (b_ * a_.heads + h_) * call_.groups.query_slots +
                       group_.query_slot + first_;
    const float factor = call_.scale(h_) * kLog2E;
    for (int32_t i = 0; i < n_; ++i) {
      const int32_t code = w_.codes[i];
      const bool token = plan::is_token(code);
      for (const Rows* rows : {&q_rows, &g_rows, &o_rows}) {
        if (i + kAhead < n_) rows->fetch(w_.codes[i + kAhead], a_.head_dim);
        if (n_ <= kFewRows) rows->fetch_next_head(code, a_.head_dim);
      }
      float share = 1;
      if (token && reduction == Reduction::kMean)
        share = static_cast<float>(1.0 / (static_cast<double>(per_row[code]) + call_.groups.mean_epsilon));
      if (token && (bc_.assign_dq || w_.written_queries)) prefetch<true>(head_row(bc_.args.dq, b_, h_, code), a_.head_dim);
      const float* g = g_rows.row(code);
      pack_row(q_rows.row(code), a_.head_dim, factor, w_.q + i * call_.width);
      pack_row(g, a_.head_dim, share, w_.g + i * call_.width);
      const float l = token ? reduction == Reduction::kMergeLse ? per_row[code] : lse[i] : kNegInf;
      w_.lse[i] = l == kNegInf ? -kNegInf : l * kLog2E;
      w_.delta[i] = token && reduction != Reduction::kMean ? dot(g, o_rows.row(code), a_.head_dim) : 0.0f;
    }
    bounds_ = plan::bounds_of(w_.codes, n_);
    queries_begun_ = false;
    if (bc_.relative) {
      relative_queries(*bc_.relative, call_, w_.relative, w_.codes, n_, factor, h_, w_.q);
      std::fill_n(w_.relative_backward.dq, n_ * call_.width, 0.0f);
    }
    // Under kMean a row's output mixes several slots, so the slot's own D comes from its probabilities: with the scores of all keys at
    // once, or by a pass of its own.
    whole_rows_ = reduction == Reduction::kMean && key_blocks() == 1;
    if (reduction == Reduction::kMean && key_blocks() > 1) run(0, key_blocks(), Work::kDelta, {});
  }

  enum class Work : uint8_t { kDelta, kQueries, kKeys, kBoth };

  // Key blocks [begin, end) against the loaded queries; key rows' gradients are delivered, the queries' collected.
  void run(int32_t begin, int32_t end, Work work, const Shared& shared) {
    plan::SlotCursor cursor(call_.groups, group_.key_runs);
    cursor.skip(std::min(key_blocks_.begin(begin) * kLanes, group_.keys));
    const Rows k_rows(a_.k, a_.memory_k, a_.pad_k, a_.head_dim, b_, h_);
    const Rows v_rows(a_.v, a_.memory_v, a_.pad_v, a_.head_dim, b_, h_);
    for (int32_t block = begin; block < end; ++block) {
      KeyBlock& keys = w_.block;
      const int32_t count = std::min(key_blocks_.begin(block + 1) * kLanes, group_.keys) - key_blocks_.begin(block) * kLanes;
      const bool seen = sees(bounds_, cursor.bounds(count));
      const bool gives_keys = work == Work::kKeys || work == Work::kBoth;
      if (!seen && !(gives_keys && fresh_keys_)) {
        cursor.skip(count);
        continue;
      }
      const bool gives_queries = work == Work::kQueries || work == Work::kBoth;
      keys.load(call_, group_, cursor, key_blocks_.begin(block), key_blocks_.begin(block + 1), b_);
      keys.pack_keys(call_, group_, k_rows, gives_queries ? w_.keys : nullptr);
      if (bc_.relative) relative_keys(*bc_.relative, w_.relative, keys);
      keys_begun_ = false;
      if (gives_keys && (bc_.assign_dkv || w_.written_keys))
        for (int32_t i = 0; i < count; ++i) {
          if (!plan::is_token(keys.codes[i])) continue;
          prefetch<true>(head_row(bc_.args.dk, b_, h_, keys.codes[i]), a_.head_dim);
          prefetch<true>(head_row(bc_.args.dv, b_, h_, keys.codes[i]), a_.head_dim);
        }
      if (seen) {
        pack_panels(v_rows, keys.codes, count, keys.panels, a_.head_dim, w_.values_t, nullptr, group_.keys <= kFewRows);
        const bool tiles = generated_ && !keys.needs_start(call_, group_);
        if (!tiles && work != Work::kDelta) begin_sums(work);
        for (int32_t q = first_block_; q < last_block_; ++q) {
          const Seen all = tiles ? generated_scores(q, work, shared) : scores(q, work, shared);
          if (work != Work::kDelta) collect(q, work, tiles, all, shared);
        }
        if (tiles && gives_queries && n_ > 0) queries_begun_ = true;
      }
      if (gives_keys) {
        begin_keys();
        deliver_keys(shared);
      }
    }
  }

  // The sums of `parts` shares of the keys' gradients, each (max_keys, width), `stride` apart.
  void deliver_parts(const float* dk, const float* dv, int64_t stride, int64_t parts, const Shared& shared) {
    plan::SlotCursor cursor(call_.groups, group_.key_runs);
    fresh_keys_ = true;
    for (int32_t block = 0; block < key_blocks(); ++block) {
      KeyBlock& keys = w_.block;
      keys.first = key_blocks_.begin(block) * kLanes;
      keys.count = std::min(key_blocks_.begin(block + 1) * kLanes, group_.keys) - keys.first;
      cursor.read(keys.count, keys.codes);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t from = part * stride + keys.first * call_.width;
        put_row(w_.dk, dk + from, 1.0f, keys.count * call_.width, part == 0);
        put_row(w_.dv, dv + from, 1.0f, keys.count * call_.width, part == 0);
      }
      deliver_keys(shared);
    }
  }

  // Writes the queries' gradients. Returns sum_i q_i · (dq_i / scale) of each query block through add(block, sum).
  template <class Add>
  void deliver_queries(const Shared& shared, Add&& add) {
    begin_queries();
    const Rows q_rows(a_.q, {}, nullptr, a_.head_dim, b_, h_);
    const float scale = call_.scale(h_);
    for (int32_t block = first_block_; block < last_block_; ++block) {
      double sum = 0;
      for (int32_t i = query_blocks_.begin(block) - first_; i < query_blocks_.begin(block + 1) - first_; ++i) {
        if (!plan::is_token(w_.codes[i])) continue;
        float* dq = w_.dq + i * call_.width;
        if (bc_.relative) {
          const float* with_v = w_.relative_backward.dq + i * call_.width;
          put_row(shared.relative.u, dq, 1.0f, call_.width, false);
          put_row(shared.relative.v, with_v, 1.0f, call_.width, false);
          put_row(dq, with_v, 1.0f, call_.width, false);
        }
        if (bc_.args.dhead_scale) sum += static_cast<double>(dot(q_rows.row(w_.codes[i]), dq, a_.head_dim));
        const bool assign = bc_.assign_dq || is_first(w_.written_queries, w_.codes[i]);
        put_row(head_row(bc_.args.dq, b_, h_, w_.codes[i]), dq, scale, a_.head_dim, assign);
      }
      add(block, sum);
    }
  }

 private:
  bool sees(const plan::RowBounds& queries, const plan::RowBounds& keys) const {
    const PairRule& rule = call_.groups.rule_of(group_);
    if (!rule.looks_at_positions()) return true;
    return queries.min <= queries.max && plan::sight(rule, queries, keys) != plan::Sight::kNone;
  }

  // Sums that have nothing yet become zeros.
  void begin_queries() {
    if (!queries_begun_) std::fill_n(w_.dq, n_ * call_.width, 0.0f);
    queries_begun_ = true;
  }
  void begin_keys() {
    if (keys_begun_) return;
    std::fill_n(w_.dk, w_.block.count * call_.width, 0.0f);
    std::fill_n(w_.dv, w_.block.count * call_.width, 0.0f);
    keys_begun_ = true;
  }
  void begin_sums(Work work) {
    if (work != Work::kKeys) begin_queries();
    if (work != Work::kQueries) begin_keys();
  }

  // P and dS of a block of queries. Returns the keys that some row of it sees; what nobody sees counts as zero.
  Seen scores(int32_t q, Work work, const Shared& shared) {
    const KeyBlock& keys = w_.block;
    const int32_t begin = query_blocks_.begin(q) - first_, n = query_blocks_.begin(q + 1) - query_blocks_.begin(q);
    const auto width_vectors = static_cast<int32_t>(call_.width / kLanes);
    const int64_t stride = keys.vectors * kLanes;
    Seen all{keys.vectors, 0};
    if (n == 0) return all;
    const plan::Pieces tiles(n, kTileRows);
    for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
      const int32_t local = tiles.begin(tile), rows = tiles.begin(tile + 1) - local, r = begin + local;
      float* p = w_.p + local * stride;
      float* ds = w_.ds + local * stride;
      const Seen seen = score_tile(call_, group_, keys, queries(), first_, r, rows, b_, h_, p, stride);
      if (bc_.relative && !seen.empty()) add_relative(*bc_.relative, call_, w_.relative, h_, r, rows, seen, p, stride);
      const Seen hidden = seen.empty() ? Seen{0, 0} : seen;
      for (int32_t i = 0; i < rows; ++i) {
        for (float* x : {p + i * stride, ds + i * stride}) {
          std::fill_n(x, hidden.begin * kLanes, 0.0f);
          std::fill(x + hidden.end * kLanes, x + stride, 0.0f);
        }
      }
      if (seen.empty()) continue;
      all.begin = std::min(all.begin, seen.begin);
      all.end = std::max(all.end, seen.end);
      value_products(r, rows, seen, ds, stride);
      for (int32_t i = 0; i < rows; ++i) score_gradients(r + i, p + i * stride, ds + i * stride, seen, work, shared);
      if (work == Work::kQueries || work == Work::kBoth) {
        const int64_t from = seen.begin * kLanes, to = std::min(seen.end * kLanes, keys.count);
        float* dq = w_.dq + r * call_.width;
        product(false, rows, width_vectors,
                {.a = ds + from, .a_stride = stride, .b = w_.keys + from * call_.width, .b_stride = call_.width,
                 .depth = to - from, .init = dq, .init_stride = call_.width, .c = dq, .c_stride = call_.width});
      }
    }
    return all;
  }

  // The same by generated code, which leaves the queries' gradients to collect().
  Seen generated_scores(int32_t q, Work work, const Shared& shared) {
    const KeyBlock& keys = w_.block;
    const int32_t begin = query_blocks_.begin(q) - first_, n = query_blocks_.begin(q + 1) - query_blocks_.begin(q);
    const int64_t stride = keys.vectors * kLanes;
    if (n == 0) return {keys.vectors, 0};
    constexpr int64_t kBytes = sizeof(float);
    const LaidBias* laid = call_.laid_bias(group_);
    const bool labels = call_.labels && group_.mixed_labels;
    const bool adds_bias = bc_.args.dbias && group_.bias >= 0 && (work == Work::kQueries || work == Work::kBoth);
    const bool finished = !whole_rows_ && work != Work::kDelta;  // what tiles write are the scores' gradients already
    uint64_t penalised[kGradientTileRows];
    GradientTile t;
    t.row_stride = call_.width * kBytes;
    t.depth = a_.head_dim;
    t.start_stride = laid ? laid->stride * kBytes : 0;
    t.penalty = call_.groups.rule_of(group_).region_penalty * kLog2E;
    t.score_stride = stride * kBytes;
    constexpr float kNoDelta[kGradientTileRows] = {};
    const plan::Pieces tiles(n, kGradientTileRows);
    for (int32_t tile = 0; tile < tiles.pieces; ++tile) {
      const int32_t local = tiles.begin(tile), rows = tiles.begin(tile + 1) - local, r = begin + local;
      t.q = w_.q + r * call_.width;
      t.g = w_.g + r * call_.width;
      t.lse = w_.lse + r;
      t.delta = finished ? w_.delta + r : kNoDelta;
      const float* start =
          laid ? laid->data + (h_ * call_.bias_of(group_).queries + first_ + r) * laid->stride + keys.first : keys.start;
      for (int32_t panel = 0; panel < keys.panels.pieces; ++panel) {
        const int32_t vector = keys.panels.begin(panel), vectors = keys.panels.begin(panel + 1) - vector;
        t.keys_t = keys.keys_t + vector * kLanes * a_.head_dim;
        t.values_t = w_.values_t + vector * kLanes * a_.head_dim;
        t.start = start + vector * kLanes;
        t.p = w_.p + local * stride + vector * kLanes;
        t.ds = w_.ds + local * stride + vector * kLanes;
        if (adds_bias && finished && shared.dbias) {
          t.dbias = bias_gradient(r, shared) + vector * kLanes;
          t.dbias_stride = padded_row(call_.bias_of(group_)) * kBytes;
        }
        if (labels) {
          for (int32_t i = 0; i < rows; ++i)
            penalised[i] = differing(keys.labels + vector * kLanes, vectors, queries().labels[r + i]);
          t.penalised = penalised;
        }
        jit_gradient_tile(rows, vectors)(&t);
      }
      for (int32_t i = 0; !finished && i < rows; ++i) finish_row(r + i, w_.p + (local + i) * stride, w_.ds + (local + i) * stride, stride, work);
      for (int32_t i = 0; adds_bias && !(finished && shared.dbias) && i < rows; ++i)
        add_bias_gradient(r + i, w_.ds + (local + i) * stride, {0, keys.vectors}, shared);
    }
    return {0, keys.vectors};
  }

  // From P_ij G_i · v_j, which tiles write where D is zero: their share of D, and with those of all keys dS.
  void finish_row(int32_t i, const float* HWY_RESTRICT p, float* HWY_RESTRICT ds, int64_t n, Work work) {
    const D d;
    V sum = hn::Zero(d);
    for (int64_t j = 0; j < n; j += kLanes) sum = hn::Add(sum, hn::Load(d, ds + j));
    if (work == Work::kDelta) {
      w_.delta[i] += sum_of_lanes(sum);
      return;
    }
    const V delta = hn::Set(d, sum_of_lanes(sum));
    for (int64_t j = 0; j < n; j += kLanes) hn::Store(hn::NegMulAdd(hn::Load(d, p + j), delta, hn::Load(d, ds + j)), d, ds + j);
  }

  // What a block of queries gives to the keys and, behind generated scores, what it gets itself.
  void collect(int32_t q, Work work, bool generated, Seen all, const Shared& shared) {
    if (all.empty()) return;
    const KeyBlock& keys = w_.block;
    const int32_t begin = query_blocks_.begin(q) - first_, n = query_blocks_.begin(q + 1) - query_blocks_.begin(q);
    const auto width_vectors = static_cast<int32_t>(call_.width / kLanes);
    const int64_t stride = keys.vectors * kLanes, from = all.begin * kLanes, to = std::min(all.end * kLanes, keys.count);
    if (generated && work != Work::kKeys) {
      float* dq = w_.dq + begin * call_.width;
      product(false, n, width_vectors,
              {.a = w_.ds + from, .a_stride = stride, .b = w_.keys + from * call_.width, .b_stride = call_.width, .depth = to - from,
               .init = queries_begun_ ? dq : nullptr, .init_stride = call_.width, .c = dq, .c_stride = call_.width});
    }
    if (work == Work::kQueries) return;
    if (bc_.relative)
      relative_backward(*bc_.relative, call_, w_.relative, w_.relative_backward, h_, begin, n, all, w_.ds, stride, shared.relative);
    const auto add = [&](const float* weights, const float* of_queries, float* to_keys) {
      float* c = to_keys + from * call_.width;
      product(true, static_cast<int32_t>(to - from), width_vectors,
              {.a = weights + from, .a_stride = stride, .b = of_queries + begin * call_.width, .b_stride = call_.width, .depth = n,
               .init = keys_begun_ ? c : nullptr, .init_stride = call_.width, .c = c, .c_stride = call_.width});
    };
    add(w_.p, w_.g, w_.dv);
    add(w_.ds, w_.q, w_.dk);
    keys_begun_ = true;
  }

  Queries queries() const {
    return {w_.q, w_.codes, call_.labels ? call_.groups.query_labels.data() + group_.query_slot + first_ : nullptr};
  }

  // to row i = G_(r+i) · v_j for the seen keys.
  void value_products(int32_t r, int32_t rows, Seen seen, float* to, int64_t stride) const {
    const KeyBlock& keys = w_.block;
    for (int32_t panel = 0; panel < keys.panels.pieces; ++panel) {
      const int32_t vector = keys.panels.begin(panel), vectors = keys.panels.begin(panel + 1) - vector;
      if (vector < seen.begin || vector >= seen.end) continue;
      tile_of(false, rows, vectors)({.a = w_.g + r * call_.width,
                                     .a_stride = call_.width,
                                     .b = w_.values_t + vector * kLanes * a_.head_dim,
                                     .b_stride = vectors * kLanes,
                                     .depth = a_.head_dim,
                                     .init = nullptr,
                                     .init_stride = 0,
                                     .c = to + vector * kLanes,
                                     .c_stride = stride});
    }
  }

  // One row: scores in p become P, G · v in ds becomes dS, and dbias collects it. kDelta: D only.
  void score_gradients(int32_t i, float* HWY_RESTRICT p, float* HWY_RESTRICT ds, Seen seen, Work work, const Shared& shared) {
    const D d;
    const V lse = hn::Set(d, w_.lse[i]);
    if (whole_rows_ || work == Work::kDelta) {
      V sum = hn::Zero(d);
      for (int32_t j = seen.begin * kLanes; j < seen.end * kLanes; j += kLanes)
        sum = hn::MulAdd(exp2(d, hn::Sub(hn::Load(d, p + j), lse)), hn::Load(d, ds + j), sum);
      w_.delta[i] += sum_of_lanes(sum);
      if (work == Work::kDelta) return;
    }
    const V delta = hn::Set(d, w_.delta[i]);
    for (int32_t j = seen.begin * kLanes; j < seen.end * kLanes; j += kLanes) {
      const V probability = exp2(d, hn::Sub(hn::Load(d, p + j), lse));
      hn::Store(probability, d, p + j);
      hn::Store(hn::Mul(probability, hn::Sub(hn::Load(d, ds + j), delta)), d, ds + j);
    }
    if (bc_.args.dbias && group_.bias >= 0 && work != Work::kKeys && plan::is_token(w_.codes[i])) add_bias_gradient(i, ds, seen, shared);
  }

  // Where row i of the loaded queries collects its bias gradient: the table's row from the block's first key on.
  float* bias_gradient(int32_t i, const Shared& shared) const {
    const TokenGroups::Bias& table = call_.bias_of(group_);
    const int64_t row = first_ + i;
    if (shared.dbias)
      return shared.dbias + padded_elements(call_.groups, static_cast<size_t>(group_.bias)) + row * padded_row(table) + w_.block.first;
    return static_cast<float*>(bc_.args.dbias) + a_.heads * table.offset + h_ * table.elements() + row * table.keys + w_.block.first;
  }

  void add_bias_gradient(int32_t i, const float* HWY_RESTRICT ds, Seen seen, const Shared& shared) const {
    const D d;
    const int32_t begin = seen.begin * kLanes, end = std::min(seen.end * kLanes, w_.block.count);
    float* HWY_RESTRICT dbias = bias_gradient(i, shared);
    int32_t j = begin;
    const int32_t vector_end = shared.dbias ? seen.end * kLanes : begin + (end - begin) / kLanes * kLanes;
    for (; j < vector_end; j += kLanes) hn::StoreU(hn::Add(hn::LoadU(d, dbias + j), hn::Load(d, ds + j)), d, dbias + j);
    for (; j < end; ++j) dbias[j] += ds[j];
  }

  void deliver_keys(const Shared& shared) {
    const GroupedAttentionBackwardArgs& args = bc_.args;
    if (shared.dk) {
      const int64_t at = w_.block.first * call_.width, count = w_.block.count * call_.width;
      put_row(shared.dk + at, w_.dk, 1.0f, count, fresh_keys_);
      put_row(shared.dv + at, w_.dv, 1.0f, count, fresh_keys_);
      return;
    }
    for (int32_t i = 0; i < w_.block.count; ++i) {
      const int32_t code = w_.block.codes[i];
      const float* dk = w_.dk + i * call_.width;
      const float* dv = w_.dv + i * call_.width;
      if (plan::is_token(code)) {
        const bool assign = bc_.assign_dkv ? fresh_keys_ : is_first(w_.written_keys, code);
        put_row(head_row(args.dk, b_, h_, code), dk, kLn2, a_.head_dim, assign);
        put_row(head_row(args.dv, b_, h_, code), dv, 1.0f, a_.head_dim, assign);
      } else if (code == plan::kPadCode) {
        if (shared.dpad_k) put_row(shared.dpad_k, dk, 1.0f, call_.width, false);
        if (shared.dpad_v) put_row(shared.dpad_v, dv, 1.0f, call_.width, false);
      } else {
        const int32_t row = plan::memory_code(code);
        if (args.dmemory_k.data) put_row(head_row(args.dmemory_k, b_, h_, row), dk, kLn2, a_.head_dim, false);
        if (args.dmemory_v.data) put_row(head_row(args.dmemory_v, b_, h_, row), dv, 1.0f, a_.head_dim, false);
      }
    }
  }

  const BackwardCall& bc_;
  const Call& call_;
  const GroupedAttentionArgs& a_;
  Workspace& w_;
  const TokenGroups::Group& group_;
  int64_t b_, h_;
  plan::Pieces query_blocks_, key_blocks_;  // key blocks in vectors
  int32_t first_block_ = 0, last_block_ = 0, first_ = 0, n_ = 0;  // loaded queries
  plan::RowBounds bounds_;
  const bool generated_;          // scores are made by generated tiles
  bool queries_begun_ = false;    // dq has something: until then sums start from zero
  bool keys_begun_ = false;       // dk and dv likewise, of the current block
  bool whole_rows_ = false;       // D comes with the scores
  bool fresh_keys_ = true;        // the keys' gradients have nothing of this group yet
};

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_backward_file
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
