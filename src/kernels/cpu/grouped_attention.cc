// Grouped softmax attention, forward. A task is a chunk of a group's queries for one head and batch element: it packs the
// queries once, then goes over the group's keys block by block with a streaming softmax (Dao et al. 2022, 2205.14135,
// section 3.1), a few rows at a time, so that scores never leave the first-level cache. Most groups are one block.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_attention.cc"
#include "kernels/cpu/grouped_attention.h"
#include <cstring>
#include <optional>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
#include "kernels/cpu/grouped_attention_generated-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_file {

namespace {

using namespace grouped_attention_tile;  // NOLINT: one kernel, two files

// Queries of a task. A task packs all keys of the group, so many where there are enough tasks anyway.
constexpr int32_t kChunkQueries = 128, kLongChunkQueries = 512;
constexpr int64_t kEnoughTasks = 32;

int32_t chunk_queries(const Call& call) {
  const TokenGroups& groups = call.groups;
  const int64_t tasks = call.a.batch * call.a.heads * plan::max_groups(groups) *
                        plan::Pieces(groups.max_queries, kLongChunkQueries).pieces;
  const int32_t most = tasks >= kEnoughTasks ? kLongChunkQueries : kChunkQueries;
  return static_cast<int32_t>(plan::round_up(std::clamp(groups.max_queries, 1, most), kLanes));
}

// Queries of a task from which on values are brought together: fewer do not read them often enough.
constexpr int32_t kQueriesWorthPacking = 64;

// Rows [r, r + rows) of scores become 2^(score - max); sums and, where the reference point moves, outputs follow. In bf16 the powers are rounded
// once they are summed, and points are whole numbers, which leave the rounding as it is.
void softmax_tile(const Call& call, Workspace& w, int32_t r, int32_t rows, Seen seen) {
  const int64_t width = call.width;
  const D d;
  V most[kTileRows];
  V up = hn::Set(d, kNegInf), low = hn::Set(d, -kNegInf);
  bool fresh = true, safe = true;
  for (int32_t i = 0; i < rows; ++i) {
    const float* s = w.s + i * kMaxBlockKeys;
    V m = hn::Load(d, s + seen.begin * kLanes);
    for (int32_t j = seen.begin + 1; j < seen.end; ++j) m = hn::Max(m, hn::Load(d, s + j * kLanes));
    most[i] = m;
    up = hn::Max(up, m);
    low = hn::Min(low, m);
    const float point = w.max[r + i];
    fresh = fresh && point == kNegInf;
    safe = safe && hn::AllTrue(d, hn::Le(m, hn::Set(d, point + kSafeExponent)));
  }
  // Neither too large anywhere nor too small everywhere (one lane will do as the witness): zero is a fine point.
  if (fresh && hn::AllTrue(d, hn::Le(up, hn::Set(d, kSafeExponent))) &&
      !hn::AllFalse(d, hn::Ge(low, hn::Set(d, -kSafeExponent)))) {
    for (int32_t i = 0; i < rows; ++i) w.max[r + i] = 0.0f;
    safe = true;
  }
  if (!safe) {
    for (int32_t i = 0; i < rows; ++i) {
      float& point = w.max[r + i];
      const float greatest = max_of_lanes(most[i]), m = call.a.bf16 ? std::ceil(greatest) : greatest;
      if (!(m > point)) continue;
      const float factor = point == kNegInf ? 0.0f : exp2(point - m);
      point = m;
      w.sum[r + i] *= factor;
      float* o = w.out + (r + i) * width;
      for (int64_t j = 0; j < width; j += kLanes) hn::Store(hn::Mul(hn::Load(d, o + j), hn::Set(d, factor)), d, o + j);
    }
  }
  for (int32_t i = 0; i < rows; ++i) {
    float* s = w.s + i * kMaxBlockKeys;
    const V point = hn::Set(d, w.max[r + i] == kNegInf ? 0.0f : w.max[r + i]);
    V sum = hn::Zero(d);
    for (int32_t j = seen.begin; j < seen.end; ++j) {
      const V e = exp2(d, hn::Sub(hn::Load(d, s + j * kLanes), point));
      hn::Store(call.a.bf16 ? RoundedToBf16(e) : e, d, s + j * kLanes);
      sum = hn::Add(sum, e);
    }
    w.sum[r + i] += sum_of_lanes(sum);
  }
}

// Rows of so many bytes come from the memory; asking for fewer before they are read costs more than it saves.
bool beyond_cache(const GroupedAttentionArgs& a) {
  constexpr int64_t kCacheBytes = int64_t{8} << 20;
  return a.batch * a.heads * a.head_dim * (a.queries + 2 * a.keys) * (a.bf16 ? 2 : 4) > kCacheBytes;
}

// Asks for the queries' rows of this head and the next, and for where the results go.
void fetch_rows(const Call& call, const int32_t* codes, int32_t n, const Rows& q_rows, int64_t b, int64_t h) {
  const GroupedAttentionArgs& a = call.a;
  const int64_t size = a.out_bf16 ? 2 : 4;
  const char* out = static_cast<const char*>(a.out.data) + (b * a.out.batch_stride + h * a.out.head_stride) * size;
  for (int32_t i = 0; i < n; ++i) {
    if (!plan::is_token(codes[i])) continue;
    q_rows.fetch(codes[i], a.head_dim);
    q_rows.fetch_next_head(codes[i], a.head_dim);
    prefetch<true>(reinterpret_cast<const float*>(out + codes[i] * a.out.token_stride * size), a.head_dim * size / 4);
  }
}

// Outputs (not yet divided by sums) and row statistics of query slots [begin, end) of a group. Rows that are `finished` have their results where they
// belong, and the code of padding.
void attend(const Call& call, const RelativeCall* relative, Workspace& w, const TokenGroups::Group& group, int64_t b, int64_t h,
            int32_t begin, int32_t end, FinishedRows finished = {}) {
  const GroupedAttentionArgs& a = call.a;
  const int32_t n = end - begin;
  if (n == 0) return;
  if (w.group != &group) w.block_batch = -1;
  if (w.group != &group || w.begin != begin || w.end != end) {
    plan::SlotCursor query_cursor(call.groups, group.query_runs);
    query_cursor.skip(begin);
    query_cursor.read(n, w.query_codes);
    w.group = &group;
    w.begin = begin;
    w.end = end;
    w.has_penalised = false;
  }
  std::copy_n(w.query_codes, n, w.codes);
  const RowElement stored = a.bf16 ? RowElement::kBf16 : RowElement::kFloat, scored = a.has_int8_scores(group) ? RowElement::kLevels : stored;
  const Rows q_rows(a.q, {}, nullptr, a.head_dim, b, h, scored);
  const bool fetches = std::max(group.queries, group.keys) <= kFewRows && beyond_cache(a);
  if (fetches) fetch_rows(call, w.codes, n, q_rows, b, h);
  const float factor = call.scale(h) * kLog2E;
  bool q_packed = false, k_packed = false, v_packed = false;
  const auto pack_queries = [&] {
    for (int32_t i = 0; i < n && !q_packed; ++i) pack_row(q_rows, w.codes[i], a.head_dim, factor, w.q + i * call.width);
    q_packed = true;
  };
  const bool generated = relative == nullptr && plain_scores(call, group) && can_generate(call, group);
  const plan::Pieces blocks(call.vectors(group.keys), w.block_keys / kLanes);
  if (!generated || blocks.pieces > 1 || group.keys == 0) finished = {};
  if (!generated) pack_queries();
  if (relative) relative_queries(*relative, call, w.relative, w.codes, n, factor, h, w.q);
  if (!finished.first) std::fill_n(w.out, n * call.width, 0.0f);
  std::fill_n(w.max, n, kNegInf);
  std::fill_n(w.sum, n, 0.0f);
  const Queries queries{w.q, w.codes, call.labels ? call.groups.query_labels.data() + group.query_slot + begin : nullptr};
  const PairRule& rule = call.groups.rule_of(group);
  const plan::RowBounds bounds = rule.looks_at_positions() ? plan::bounds_of(w.codes, n) : plan::RowBounds{};

  std::optional<GeneratedTiles> generated_tiles;
  if (generated) generated_tiles.emplace(call, w, group, q_rows, begin, n, h);
  const Rows k_rows(a.k, a.memory_k, a.pad_k, a.head_dim, b, h, scored), v_rows(a.v, a.memory_v, a.pad_v, a.head_dim, b, h, stored);
  plan::SlotCursor key_cursor(call.groups, group.key_runs);
  const auto pack_keys = [&] {
    if (!k_packed) w.block.pack_keys(call, group, k_rows);
    k_packed = true;
  };
  const auto pack_values = [&] {
    for (int32_t i = 0; i < w.block.count && !v_packed; ++i) pack_row(v_rows, w.block.codes[i], a.head_dim, 1.0f, w.v + i * call.width);
    v_packed = true;
  };
  // Queries [first, first + count) against the block.
  const auto slow_tiles = [&](int32_t first, int32_t count) {
    pack_queries();
    pack_keys();
    pack_values();
    const plan::Pieces parts(count, kTileRows);
    for (int32_t part = 0; part < parts.pieces; ++part) {
      const int32_t r = first + parts.begin(part), rows = parts.begin(part + 1) - parts.begin(part);
      const Seen seen = score_tile(call, group, w.block, queries, begin, r, rows, b, h, w.s, kMaxBlockKeys);
      if (seen.empty()) continue;
      if (relative) add_relative(*relative, call, w.relative, h, r, rows, seen, w.s, kMaxBlockKeys);
      softmax_tile(call, w, r, rows, seen);
      float* o = w.out + r * call.width;
      const int64_t from = seen.begin * kLanes, to = std::min(seen.end * kLanes, w.block.count);
      product(false, rows, static_cast<int32_t>(call.width / kLanes),
              {.a = w.s + from, .a_stride = kMaxBlockKeys, .b = w.v + from * call.width, .b_stride = call.width,
               .depth = to - from, .init = o, .init_stride = call.width, .c = o, .c_stride = call.width});
    }
  };
  for (int32_t block = 0; block < blocks.pieces && group.keys > 0; ++block) {
    const int32_t keys = std::min(blocks.begin(block + 1) * kLanes, group.keys) - blocks.begin(block) * kLanes;
    if (rule.looks_at_positions() &&
        (bounds.min > bounds.max || plan::sight(rule, bounds, key_cursor.bounds(keys)) == plan::Sight::kNone)) {
      key_cursor.skip(keys);
      continue;
    }
    if (w.block_batch != b) {
      w.block.load(call, group, key_cursor, blocks.begin(block), blocks.begin(block + 1), b);
      w.has_penalised = false;
    }
    if (generated && call.labels && group.mixed_labels) w.find_penalised(queries.labels, n);
    w.block_batch = blocks.pieces == 1 ? b : -1;
    k_packed = v_packed = false;
    if (relative) relative_keys(*relative, w.relative, w.block);
    for (int32_t i = 0; i < keys && fetches; ++i) v_rows.fetch_next_head(w.block.codes[i], a.head_dim);
    const bool fast = generated && !w.block.needs_start(call, group);
    if (!fast) {
      if (finished.first) std::fill_n(w.out, n * call.width, 0.0f);
      slow_tiles(0, n);
      continue;
    }
    if (a.bf16) {
      pack_pairs(call, w, group, k_rows, v_rows);
    } else {
      pack_keys();
      if (n > kQueriesWorthPacking || a.head_dim % kLanes != 0) pack_values();
      for (int32_t i = 0; i < keys; ++i) w.v_rows[i] = v_packed ? w.v + i * call.width : v_rows.row(w.block.codes[i]);
    }
    const plan::Pieces tiles(n, tile_rows(a.head_dim));
    for (int32_t tile = 0; tile < tiles.pieces; ++tile)
      generated_tile(call, w, *generated_tiles, tiles.begin(tile), tiles.begin(tile + 1) - tiles.begin(tile), finished, [&](int32_t r, int32_t rows) {
        if (finished.first) std::fill_n(w.out + r * call.width, rows * call.width, 0.0f);
        slow_tiles(r, rows);
      });
  }
}

// lse = ln 2 * (max + log2 sum).
void log_sum_exp(const Workspace& w, int32_t n) {
  const D d;
  for (int32_t i = n; i < static_cast<int32_t>(plan::round_up(n, kLanes)); ++i) w.sum[i] = w.max[i] = 1.0f;
  for (int32_t i = 0; i < n; i += kLanes) {
    const V max = hn::Load(d, w.max + i), sum = hn::Load(d, w.sum + i);
    const V none = hn::Set(d, kNegInf);
    const V lse = hn::Mul(hn::Set(d, kLn2), hn::Add(max, hn::Log2(d, sum)));
    hn::Store(hn::IfThenElse(hn::Eq(max, none), none, lse), d, w.lse + i);
  }
}

// row (head_dim) = row * keep + factor * o.
void mix_row(float* HWY_RESTRICT row, float keep, const float* HWY_RESTRICT o, float factor, int64_t head_dim) {
  const D d;
  const V k = hn::Set(d, keep), f = hn::Set(d, factor);
  for_vectors(
      head_dim,
      [&](int64_t i) HWY_ATTR { hn::StoreU(hn::MulAdd(hn::LoadU(d, row + i), k, hn::Mul(f, hn::Load(d, o + i))), d, row + i); },
      [&](int64_t i, int32_t n) HWY_ATTR {
        store_partial(hn::MulAdd(load_partial(row + i, n), k, hn::Mul(f, hn::Load(d, o + i))), row + i, n);
      });
}

void round_row(uint16_t* HWY_RESTRICT row, const float* HWY_RESTRICT o, float factor, int64_t head_dim) {
  const V f = hn::Set(D(), factor);
  for_vectors(
      head_dim, [&](int64_t i) HWY_ATTR { StoreBf16(hn::Mul(f, hn::LoadU(D(), o + i)), row + i); },
      [&](int64_t i, int32_t n) HWY_ATTR { StoreBf16Tail(hn::Mul(f, load_partial(o + i, n)), row + i, static_cast<size_t>(n)); });
}

void scale_row(float* HWY_RESTRICT row, const float* HWY_RESTRICT o, float factor, int64_t head_dim) {
  const D d;
  const V f = hn::Set(d, factor);
  for_vectors(
      head_dim, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(f, hn::Load(d, o + i)), d, row + i); },
      [&](int64_t i, int32_t n) HWY_ATTR { store_partial(hn::Mul(f, hn::Load(d, o + i)), row + i, n); });
}

// Results of a batch element and head.
char* out_of(const GroupedAttentionArgs& a, int64_t b, int64_t h) {
  return static_cast<char*>(a.out.data) + (b * a.out.batch_stride + h * a.out.head_stride) * (a.out_bf16 ? 2 : 4);
}

// Hands the results of query slots [begin, begin + n) over. Every row once (kAssign), or added (kMean), or merged by the
// log-sum-exp of what the row has so far, row_lse (queries).
void deliver(const Call& call, const Workspace& w, const TokenGroups::Group& group, int64_t b, int64_t h, int32_t begin,
             int32_t n, float* row_lse) {
  const GroupedAttentionArgs& a = call.a;
  float* out = static_cast<float*>(a.out.data) + b * a.out.batch_stride + h * a.out.head_stride;
  float* lse = a.lse ? static_cast<float*>(a.lse) + (b * a.heads + h) * call.groups.query_slots + group.query_slot + begin
                     : nullptr;
  if (lse || row_lse) log_sum_exp(w, n);
  for (int32_t i = 0; i < n; ++i) {
    const bool token = plan::is_token(w.codes[i]);
    if (lse) lse[i] = token ? w.lse[i] : kNegInf;
    if (!token) continue;
    const float* o = w.out + i * call.width;
    const float inverse = w.max[i] == kNegInf ? 0.0f : 1.0f / w.sum[i];
    if (a.out_bf16) {
      round_row(reinterpret_cast<uint16_t*>(out_of(a, b, h)) + w.codes[i] * a.out.token_stride, o, inverse, a.head_dim);
      continue;
    }
    float* row = out + w.codes[i] * a.out.token_stride;
    switch (call.groups.reduction) {
      case Reduction::kAssign: scale_row(row, o, inverse, a.head_dim); break;
      case Reduction::kMean: mix_row(row, 1.0f, o, inverse, a.head_dim); break;
      case Reduction::kMergeLse: {
        float& total = row_lse[w.codes[i]];
        if (w.lse[i] == kNegInf) break;
        const float max = std::max(total, w.lse[i]);
        const float keep = std::exp(total - max), add = std::exp(w.lse[i] - max);
        mix_row(row, keep / (keep + add), o, inverse * add / (keep + add), a.head_dim);
        total = max + std::log(keep + add);
        break;
      }
    }
  }
}

void zero_rows(const Call& call, int64_t b, int64_t h) {
  const GroupedAttentionArgs& a = call.a;
  const int64_t size = a.out_bf16 ? 2 : 4;
  char* out = static_cast<char*>(a.out.data) + (b * a.out.batch_stride + h * a.out.head_stride) * size;
  for (int64_t n = 0; n < a.queries; ++n) std::memset(out + n * a.out.token_stride * size, 0, static_cast<size_t>(a.head_dim * size));
}

// Pad rows (H, D) rounded for products in bfloat16.
const void* rounded_pads(const GroupedAttentionArgs& a, const void* pads, Context& ctx) {
  if (pads == nullptr) return pads;
  auto* to = ctx.scratch().take<uint16_t>(a.heads * a.head_dim);
  round_row(to, static_cast<const float*>(pads), 1.0f, a.heads * a.head_dim);
  return to;
}

void grouped_attention(const GroupedAttentionArgs& args, Context& ctx) {
  if (args.batch == 0 || args.heads == 0 || args.queries == 0) return;
  check(!args.bf16 || args.relative == nullptr, "attention with a relative term multiplies floats");
  check(!args.int8_scores || args.bf16, "scores of integers stand beside products in bfloat16");
  check(!args.out_bf16 || (args.bf16 && args.groups->reduction == Reduction::kAssign),
        "attention writes bfloat16 where it multiplies in it and each row occurs once");
  ArenaScope scope(ctx.scratch());
  GroupedAttentionArgs a = args;
  if (a.bf16) {
    a.pad_k = rounded_pads(a, args.pad_k, ctx);
    a.pad_v = rounded_pads(a, args.pad_v, ctx);
  }
  Call call(a);
  const TokenGroups& groups = call.groups;
  prepare_bias(call, ctx);
  const int32_t block_keys =
      std::max(kLanes, static_cast<int32_t>(plan::round_up(std::min(groups.max_keys, kMaxBlockKeys), kLanes)));
  const int32_t chunk_size = chunk_queries(call);
  std::optional<RelativeCall> relative_call;
  if (a.relative) relative_call.emplace(call, false, ctx);
  const RelativeCall* relative = relative_call ? &*relative_call : nullptr;
  const int64_t bytes = Workspace::bytes(chunk_size, block_keys, call, relative);
  char* memory = ctx.scratch().take<char>(bytes * ctx.pool().threads());
  const auto workspace = [&](int thread) {
    return Workspace(Cutter(memory + thread * bytes), chunk_size, block_keys, call, relative);
  };
  if (a.lse && groups.ranges.size() > 1)
    std::fill_n(static_cast<float*>(a.lse), a.batch * a.heads * groups.query_slots, kNegInf);

  if (groups.reduction == Reduction::kAssign) {
    if (!plan::queries_cover(groups, a.queries))
      ctx.pool().for_each(a.batch * a.heads, [&](int64_t i) { zero_rows(call, i / a.heads, i % a.heads); });
    const int64_t most_groups = plan::max_groups(groups);
    const int64_t most_chunks = plan::Pieces(groups.max_queries, chunk_size).pieces;
    ctx.pool().for_ranges(a.batch * most_groups * a.heads * most_chunks, [&](int64_t first, int64_t last, int thread) {
      Workspace w = workspace(thread);
      for (int64_t task = first; task < last; ++task) {
        const int64_t h = task / most_chunks % a.heads, g = task / most_chunks / a.heads % most_groups;
        const int64_t b = task / most_chunks / a.heads / most_groups;
        const TokenGroups::Range& range = groups.range(b, h);
        if (g >= range.end - range.begin) continue;
        const TokenGroups::Group& group = groups.groups[static_cast<size_t>(range.begin + g)];
        const plan::Pieces chunks(group.queries, chunk_size);
        auto chunk = static_cast<int32_t>(task % most_chunks);
        if (chunk >= chunks.pieces) continue;
        // Causal chunks cost more the later they are: taken in turn from both ends, any contiguous share costs the same.
        if (groups.rule_of(group).causal) chunk = chunk % 2 == 0 ? chunk / 2 : chunks.pieces - 1 - chunk / 2;
        const int32_t begin = chunks.begin(chunk), end = chunks.begin(chunk + 1);
        FinishedRows finished;
        if (a.out_bf16 == a.bf16 && a.lse == nullptr) finished = {out_of(a, b, h), a.out.token_stride * (a.out_bf16 ? 2 : 4)};
        attend(call, relative, w, group, b, h, begin, end, finished);
        deliver(call, w, group, b, h, begin, end - begin, nullptr);
      }
    });
    return;
  }

  // A row collects from several groups: one thread does all groups of a head, in order.
  float* rows_of_threads = ctx.scratch().take<float>(a.queries * ctx.pool().threads());
  ctx.pool().for_ranges(a.batch * a.heads, [&](int64_t first, int64_t last, int thread) {
    Workspace w = workspace(thread);
    float* per_row = rows_of_threads + thread * a.queries;
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / a.heads, h = task % a.heads;
      const TokenGroups::Range& range = groups.range(b, h);
      const bool mean = groups.reduction == Reduction::kMean;
      zero_rows(call, b, h);
      if (!mean) std::fill_n(per_row, a.queries, kNegInf);
      for (int32_t g = range.begin; g < range.end; ++g) {
        const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
        const plan::Pieces chunks(group.queries, chunk_size);
        for (int32_t c = 0; c < chunks.pieces; ++c) {
          attend(call, relative, w, group, b, h, chunks.begin(c), chunks.begin(c + 1));
          deliver(call, w, group, b, h, chunks.begin(c), chunks.begin(c + 1) - chunks.begin(c), mean ? nullptr : per_row);
        }
      }
      if (!mean) continue;
      plan::count_slots(groups, range, a.queries, per_row);
      float* out = static_cast<float*>(a.out.data) + b * a.out.batch_stride + h * a.out.head_stride;
      for (int64_t n = 0; n < a.queries; ++n) {
        const auto share = static_cast<float>(1.0 / (static_cast<double>(per_row[n]) + groups.mean_epsilon));
        float* row = out + n * a.out.token_stride;
        if (per_row[n] > 0)
          for (int64_t i = 0; i < a.head_dim; ++i) row[i] *= share;
      }
    }
  });
}

}  // namespace

void fill(KernelTable& t) { t.grouped_attention = grouped_attention; }

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_grouped_attention(KernelTable& t, Isa isa) {
  FOVEA_FILL(t, isa, grouped_attention_file);
  fill_grouped_attention_backward(t, isa);
}
}  // namespace fovea
#endif
