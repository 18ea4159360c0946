// Grouped softmax attention, backward. Probabilities are recomputed from the log-sum-exp the forward kept: with
// P = exp(S - lse), G = dout (divided by count + epsilon under kMean) and D_i = sum_j P_ij (G_i · v_j) = G_i · O_i,
//   dv_j = sum_i P_ij G_i,  dS_ij = P_ij (G_i · v_j - D_i),  dq_i = scale sum_j dS_ij k_j,  dk_j = scale sum_i dS_ij q_i,
//   dbias_ij = dS_ij,  dhead_scale = sum_ij dS_ij q_i · k_j = sum_i q_i · (dq_i / scale)
// (Dao et al. 2022, 2205.14135, appendix B.4). The relative term's part is in grouped_attention_relative_backward-inl.h. Under
// kMergeLse lse is that of the row over all its slots.
//
// Queries are taken in stretches that stay in a cache; inside one, key blocks are outside and query blocks inside. What several
// groups or batch elements add to (dbias, dpad, dhead_scale) is kept per chunk of them and summed over the chunks in order. A
// group of many queries and few keys is cut into parts with gradients of their own for the keys, summed in order too. Neither
// stretches, chunks nor parts depend on the number of threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_attention_backward.cc"
#include "kernels/cpu/grouped_attention.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "kernels/cpu/grouped_attention_group_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_backward_file {

namespace {

constexpr int64_t kMaxChunks = 16;
constexpr int64_t kEnoughChunks = 96;                    // of all heads together, where each has sums as large as the bias
constexpr int64_t kMostBiasElements = int64_t{8} << 20;  // of all chunks' dbias together
constexpr int64_t kLargePairs = int64_t{1} << 18;        // queries x keys of a group worth cutting up between threads
constexpr int64_t kEnoughTasks = 64;                     // no more parts where there are so many tasks

// The units of a call whose sums are shared: batch elements, or single groups where no two groups share a row; and their
// cut into chunks, each done by one thread from its first to its last.
struct Plan {
  bool by_group = false;
  bool one_thread = false;  // gradient views alias between heads or batch elements
  int64_t groups = 1;       // per batch element, when by_group
  int64_t units = 0, chunks = 1;
  int64_t parts = 1;        // of the queries of a chunk, which then is one group
  int64_t dbias_elements = 0;  // of a head, rows padded

  Plan(const GroupedAttentionBackwardArgs& args, const TokenGroups& tg) {
    const GroupedAttentionArgs& a = args.forward;
    const auto shared = [&](const HeadsView& v) {
      return v.data && ((v.head_stride == 0 && a.heads > 1) || (v.batch_stride == 0 && a.batch > 1));
    };
    one_thread = shared(args.dk) || shared(args.dv) || shared(args.dmemory_k) || shared(args.dmemory_v);
    by_group = tg.keys_disjoint && tg.reduction == Reduction::kAssign && !a.memory_k.data && !one_thread;
    groups = by_group ? plan::max_groups(tg) : 1;
    units = a.batch * groups;
    chunks = std::max<int64_t>(1, std::min(units, kMaxChunks));
    if (args.dbias) {
      dbias_elements = padded_elements(tg, tg.biases.size());
      const int64_t one = std::max<int64_t>(1, a.heads * dbias_elements);
      chunks = std::clamp<int64_t>(std::min(kMostBiasElements / one, kEnoughChunks / a.heads), 1, chunks);
    } else if (by_group && chunks == units && tg.max_keys > 0) {
      // The parts' shares of the keys' gradients together are no larger than the queries'.
      const int64_t stretches = tg.max_queries / (kStretchBlocks * kBlockQueries), tasks = std::max<int64_t>(1, chunks * a.heads);
      const int64_t most = std::max<int64_t>(1, std::min<int64_t>(stretches, tg.max_queries / tg.max_keys));
      parts = std::clamp<int64_t>((kEnoughTasks + tasks - 1) / tasks, 1, most);
    }
    if (a.relative) {  // its tables' gradients are as long as the keys
      const int64_t one = a.heads * RelativePartials(*a.relative, plan::round_up(a.head_dim, kLanes)).one;
      chunks = std::clamp<int64_t>(kMostBiasElements / one, 1, chunks);
      parts = 1;
    }
  }
  int64_t sums() const { return chunks * parts; }  // places for what is summed at the end
  int64_t begin(int64_t chunk) const { return units * chunk / chunks; }
};

void zero_gradients(const BackwardCall& bc, int64_t memory_rows, int64_t b, int64_t h) {
  const auto zero = [&](const HeadsView& v, int64_t rows) {
    if (!v.data) return;
    for (int64_t n = 0; n < rows; ++n) std::fill_n(head_row(v, b, h, n), bc.call.a.head_dim, 0.0f);
  };
  if (!bc.assign_dq && !bc.marks_rows) zero(bc.args.dq, bc.call.a.queries);
  if (!bc.assign_dkv && !bc.marks_rows) {
    zero(bc.args.dk, bc.call.a.keys);
    zero(bc.args.dv, bc.call.a.keys);
  }
  zero(bc.args.dmemory_k, memory_rows);
  zero(bc.args.dmemory_v, memory_rows);
}

// Zeros for the rows that nobody has written.
void zero_unwritten(const BackwardCall& bc, const Workspace& w, int64_t b, int64_t h) {
  const auto zero = [&](const HeadsView& v, const uint8_t* written, int64_t rows) {
    for (int64_t n = 0; written != nullptr && n < rows; ++n)
      if (written[n] == 0) std::fill_n(head_row(v, b, h, n), bc.call.a.head_dim, 0.0f);
  };
  zero(bc.args.dq, w.written_queries, bc.call.a.queries);
  zero(bc.args.dk, w.written_keys, bc.call.a.keys);
  zero(bc.args.dv, w.written_keys, bc.call.a.keys);
}

// Log-sum-exp of each row over its slots, in the slots' order.
void merge_lse(const Call& call, int64_t b, int64_t h, float* row_lse) {
  const float* lse = static_cast<const float*>(call.a.lse) + (b * call.a.heads + h) * call.groups.query_slots;
  std::fill_n(row_lse, call.a.queries, kNegInf);
  const TokenGroups::Range& range = call.groups.range(b, h);
  for (int32_t g = range.begin; g < range.end; ++g) {
    const TokenGroups::Group& group = call.groups.groups[static_cast<size_t>(g)];
    plan::SlotCursor cursor(call.groups, group.query_runs);
    for (int32_t i = 0; i < group.queries; ++i) {
      int32_t code = 0;
      cursor.read(1, &code);
      const float one = lse[group.query_slot + i];
      if (!plan::is_token(code) || one == kNegInf) continue;
      float& total = row_lse[code];
      const float max = std::max(total, one);
      total = max + std::log(std::exp(total - max) + std::exp(one - max));
    }
  }
}

// A chunk's (or its part's) own sums, one after the other in one allocation: chunk-major, then heads.
struct Partials {
  const Plan& layout;
  int64_t heads, width;
  int64_t part_elements = 0;           // max_keys * width
  float *dbias = nullptr, *dpad = nullptr;
  float *dk = nullptr, *dv = nullptr;  // with several parts: (max_keys, width) each
  double* dhead_scale = nullptr;
  RelativePartials relative = {};

  Shared of(int64_t chunk, int64_t h) const {
    const int64_t i = chunk * heads + h;
    Shared s;
    if (dbias) {
      s.dbias = dbias + i * layout.dbias_elements;
      std::fill_n(s.dbias, layout.dbias_elements, 0.0f);
    }
    s.dpad_k = dpad + 2 * i * width;
    s.dpad_v = s.dpad_k + width;
    std::fill_n(s.dpad_k, 2 * width, 0.0f);
    if (dk) {
      s.dk = dk + i * part_elements;
      s.dv = dv + i * part_elements;
    }
    dhead_scale[i] = 0;
    if (relative.data) {
      s.relative = relative.of(i);
      std::fill_n(s.relative.x_rows, relative.one, 0.0f);
    }
    return s;
  }
};

void sum_partials(const BackwardCall& bc, const Partials& p, Context& ctx) {
  const GroupedAttentionBackwardArgs& args = bc.args;
  const GroupedAttentionArgs& a = bc.call.a;
  const int64_t chunks = p.layout.sums();
  int64_t offset = 0;
  for (size_t t = 0; p.dbias && t < bc.call.groups.biases.size(); ++t) {
    const TokenGroups::Bias& table = bc.call.groups.biases[t];
    ctx.pool().for_each(a.heads * table.queries, [&](int64_t i) {
      float* to = static_cast<float*>(args.dbias) + a.heads * table.offset + i * table.keys;
      const int64_t h = i / table.queries, row = i % table.queries;
      for (int64_t c = 0; c < chunks; ++c) {
        const float* from = p.dbias + (c * a.heads + h) * p.layout.dbias_elements + offset + row * padded_row(table);
        put_row(to, from, 1.0f, table.keys, false);
      }
    });
    offset += table.queries * padded_row(table);
  }
  for (int64_t h = 0; h < a.heads; ++h) {
    double scale_sum = 0;
    for (int64_t c = 0; c < chunks; ++c) {
      const float* dpad = p.dpad + 2 * (c * a.heads + h) * p.width;
      if (args.dpad_k) put_row(static_cast<float*>(args.dpad_k) + h * a.head_dim, dpad, kLn2, a.head_dim, false);
      if (args.dpad_v) put_row(static_cast<float*>(args.dpad_v) + h * a.head_dim, dpad + p.width, 1.0f, a.head_dim, false);
      scale_sum += p.dhead_scale[c * a.heads + h];
    }
    if (args.dhead_scale) static_cast<float*>(args.dhead_scale)[h] += static_cast<float>(scale_sum);
  }
}

// The groups of a unit for a head.
TokenGroups::Range unit_groups(const Call& call, const Plan& layout, int64_t unit, int64_t h) {
  TokenGroups::Range range = call.groups.range(unit / layout.groups, h);
  if (!layout.by_group) return range;
  range.begin = std::min(range.end, static_cast<int32_t>(range.begin + unit % layout.groups));
  range.end = std::min(range.end, range.begin + 1);
  return range;
}

// A few large groups on several threads: key rows' gradients by key blocks, then queries' by query blocks. Scores are
// computed twice (7 products instead of 5), sums run in the same order as without cutting, so the bits are the same.
bool cut_groups(const BackwardCall& bc, const Plan& layout, int threads) {
  const TokenGroups& groups = bc.call.groups;
  const int64_t tasks = layout.chunks * bc.call.a.heads;
  if (bc.relative) return false;  // its tables' rows collect from all queries and keys
  if (threads == 1 || !layout.by_group || layout.parts > 1 || layout.chunks != layout.units) return false;
  if ((tasks + threads - 1) / threads * threads * 5 <= 7 * tasks) return false;
  if (int64_t{groups.max_queries} * groups.max_keys < kLargePairs) return false;
  for (const TokenGroups::Group& g : groups.groups)
    if (g.key_runs_end - g.key_runs > 1 || (g.keys > 0 && groups.runs[static_cast<size_t>(g.key_runs)].source != RowSource::kToken))
      return false;
  return true;
}

void grouped_attention_backward(const GroupedAttentionBackwardArgs& args, Context& ctx) {
  const GroupedAttentionArgs& a = args.forward;
  if (a.batch == 0 || a.heads == 0) return;
  check(a.groups->query_slots == 0 || (a.lse != nullptr && a.out.data != nullptr),
        "grouped attention's backward needs the forward's out and lse");
  ArenaScope scope(ctx.scratch());
  BackwardCall bc{.args = args, .call = Call(a)};
  const Call& call = bc.call;
  const TokenGroups& groups = call.groups;
  prepare_bias(bc.call, ctx);
  const Plan layout(args, groups);
  bc.assign_dq = groups.reduction == Reduction::kAssign && plan::queries_cover(groups, a.queries);
  bc.assign_dkv = groups.keys_disjoint && !layout.one_thread && plan::keys_cover(groups, a.keys);
  bc.marks_rows = !layout.by_group && !layout.one_thread;
  bc.block_keys = std::max(kLanes, static_cast<int32_t>(plan::round_up(std::min(groups.max_keys, kBlockKeys), kLanes)));
  if (a.relative) bc.relative.emplace(call, true, ctx);

  const int threads = ctx.pool().threads();
  Arena& scratch = ctx.scratch();
  const int64_t stretch_queries = std::clamp(groups.max_queries, 1, kStretchBlocks * kBlockQueries);
  const int64_t bytes = Workspace::bytes(stretch_queries, bc);
  char* memory = scratch.take<char>(bytes * threads);
  float* rows_of_threads = groups.reduction == Reduction::kAssign ? nullptr : scratch.take<float>(a.queries * threads);
  uint8_t* marks = scratch.take<uint8_t>((a.queries + a.keys) * threads);
  Partials partials{.layout = layout, .heads = a.heads, .width = call.width, .part_elements = groups.max_keys * call.width};
  if (args.dbias && layout.chunks > 1)
    partials.dbias = scratch.take<float>(layout.chunks * a.heads * layout.dbias_elements);
  partials.dpad = scratch.take<float>(2 * layout.sums() * a.heads * call.width);
  partials.dhead_scale = scratch.take<double>(layout.sums() * a.heads);
  if (a.relative) {
    partials.relative = RelativePartials(*a.relative, call.width);
    partials.relative.data = scratch.take<float>(layout.chunks * a.heads * partials.relative.one);
  }
  if (layout.parts > 1) {
    partials.dk = scratch.take<float>(layout.sums() * a.heads * partials.part_elements);
    partials.dv = scratch.take<float>(layout.sums() * a.heads * partials.part_elements);
  }
  const auto workspace = [&](int thread) {
    Workspace w(Cutter(memory + thread * bytes), stretch_queries, bc);
    uint8_t* rows = marks + (a.queries + a.keys) * thread;
    if (bc.marks_queries()) w.written_queries = rows;
    if (bc.marks_keys()) w.written_keys = rows + a.queries;
    return w;
  };
  const auto share = [&](int64_t n, auto&& f) {
    if (layout.one_thread)
      f(int64_t{0}, n, 0);
    else
      ctx.pool().for_ranges(n, f);
  };

  const int64_t memory_rows = a.memory_k.data ? plan::memory_rows(groups) : 0;
  share(a.batch * a.heads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) zero_gradients(bc, memory_rows, i / a.heads, i % a.heads);
  });

  const int64_t tasks = layout.sums() * a.heads;
  Shared* shared = scratch.take<Shared>(tasks);
  using Work = GroupBackward::Work;
  if (!cut_groups(bc, layout, threads)) {
    share(tasks, [&](int64_t begin, int64_t end, int thread) {
      Workspace w = workspace(thread);
      float* per_row = rows_of_threads ? rows_of_threads + thread * a.queries : nullptr;
      // Heads inside, groups outside: the rows of neighbouring heads are neighbours in memory.
      for (int64_t task = begin; task < end;) {
        const int64_t chunk = task / a.heads / layout.parts, part = task / a.heads % layout.parts;
        const int64_t first_head = task % a.heads, last_head = std::min(a.heads, first_head + end - task);
        for (int64_t h = first_head; h < last_head; ++h) shared[task + h - first_head] = partials.of(task / a.heads, h);
        for (int64_t unit = layout.begin(chunk); unit < layout.begin(chunk + 1); ++unit)
          for (int64_t h = first_head; h < last_head; ++h) {
            const int64_t b = unit / layout.groups, at = task + h - first_head;
            if (groups.reduction == Reduction::kMean) plan::count_slots(groups, groups.range(b, h), a.queries, per_row);
            if (groups.reduction == Reduction::kMergeLse) merge_lse(call, b, h, per_row);
            if (w.written_queries) std::fill_n(w.written_queries, a.queries, uint8_t{0});
            if (w.written_keys) std::fill_n(w.written_keys, a.keys, uint8_t{0});
            const TokenGroups::Range range = unit_groups(call, layout, unit, h);
            for (int32_t g = range.begin; g < range.end; ++g) {
              GroupBackward group(bc, w, groups.groups[static_cast<size_t>(g)], b, h);
              const auto first = static_cast<int32_t>(group.query_blocks() * part / layout.parts);
              const auto last = static_cast<int32_t>(group.query_blocks() * (part + 1) / layout.parts);
              group.for_stretches(first, last, [&](int32_t from, int32_t to) {
                group.load_queries(from, to, per_row);
                group.run(0, group.key_blocks(), Work::kBoth, shared[at]);
                group.deliver_queries(shared[at], [&](int32_t, double sum) { partials.dhead_scale[at] += sum; });
              });
            }
            zero_unwritten(bc, w, b, h);
          }
        task += last_head - first_head;
      }
    });
    if (layout.parts > 1) {
      share(layout.chunks * a.heads, [&](int64_t begin, int64_t end, int thread) {
        Workspace w = workspace(thread);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t chunk = i / a.heads, h = i % a.heads, first = chunk * layout.parts * a.heads + h;
          const TokenGroups::Range range = unit_groups(call, layout, chunk, h);
          if (range.begin == range.end) continue;
          const Shared sums{.dpad_k = partials.dpad + 2 * first * call.width, .dpad_v = partials.dpad + (2 * first + 1) * call.width};
          GroupBackward group(bc, w, groups.groups[static_cast<size_t>(range.begin)], chunk / layout.groups, h);
          const int64_t at = first * partials.part_elements;
          group.deliver_parts(partials.dk + at, partials.dv + at, a.heads * partials.part_elements, layout.parts, sums);
        }
      });
    }
  } else {
    const int64_t cuts = int64_t{4} * threads;
    const int64_t query_blocks = plan::Pieces(groups.max_queries, kBlockQueries).pieces;
    double* block_sums = scratch.take<double>(tasks * query_blocks);
    std::fill_n(block_sums, tasks * query_blocks, 0.0);
    for (int64_t task = 0; task < tasks; ++task) shared[task] = partials.of(task / a.heads, task % a.heads);
    for (const Work work : {Work::kKeys, Work::kQueries}) {
      ctx.pool().for_ranges(tasks * cuts, [&](int64_t begin, int64_t end, int thread) {
        Workspace w = workspace(thread);
        for (int64_t i = begin; i < end; ++i) {
          // Causal cuts differ in cost: taken in turn from both ends.
          const int64_t task = i / cuts, h = task % a.heads, unit = task / a.heads;
          const int64_t cut = i % 2 == 0 ? i % cuts / 2 : cuts - 1 - i % cuts / 2;
          const TokenGroups::Range range = unit_groups(call, layout, unit, h);
          if (range.begin == range.end) continue;
          GroupBackward group(bc, w, groups.groups[static_cast<size_t>(range.begin)], unit / layout.groups, h);
          const int64_t blocks = work == Work::kKeys ? group.key_blocks() : group.query_blocks();
          const auto first = static_cast<int32_t>(blocks * cut / cuts), last = static_cast<int32_t>(blocks * (cut + 1) / cuts);
          if (first == last) continue;
          if (work == Work::kKeys) {
            group.for_stretches(0, group.query_blocks(), [&](int32_t from, int32_t to) {
              group.load_queries(from, to, nullptr);
              group.run(first, last, work, shared[task]);
            });
          } else {
            group.for_stretches(first, last, [&](int32_t from, int32_t to) {
              group.load_queries(from, to, nullptr);
              group.run(0, group.key_blocks(), work, shared[task]);
              group.deliver_queries(shared[task], [&](int32_t block, double sum) { block_sums[task * query_blocks + block] = sum; });
            });
          }
        }
      });
    }
    for (int64_t task = 0; task < tasks; ++task)
      for (int64_t i = 0; i < query_blocks; ++i) partials.dhead_scale[task] += block_sums[task * query_blocks + i];
  }
  sum_partials(bc, partials, ctx);
  if (a.relative) deliver_relative(*a.relative, args.relative, call, partials.relative, layout.chunks, ctx);
}

}  // namespace

void fill(KernelTable& t) { t.grouped_attention_backward = grouped_attention_backward; }

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_backward_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_grouped_attention_backward(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, grouped_attention_backward_file); }
}  // namespace fovea
#endif
