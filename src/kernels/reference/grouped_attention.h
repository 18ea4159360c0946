// Softmax attention over token groups, straight from the definition: for every batch element, head, group and query slot
// one loop over the key slots. The only shortcut is that a group's slots are listed once before its queries.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/check.h"
#include "core/convert.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/gemm.h"
#include "kernels/reference/relative_term.h"
#include "kernels/reference/scalar.h"
#include "kernels/reference/slot.h"

namespace fovea::reference {

inline void list_slots(const TokenGroups& groups, int32_t begin, int32_t end, Slot* slots) {
  for (int32_t r = begin; r < end; ++r) {
    const Run& run = groups.runs[static_cast<size_t>(r)];
    for (int32_t i = 0; i < run.count; ++i) *slots++ = {run.begin + int64_t{i} * run.stride, run.source, run.free};
  }
}

// One group of one batch element and head.
template <class T>
class GroupScores {
 public:
  GroupScores(const GroupedAttentionArgs& a, const TokenGroups::Group& group, int64_t b, int64_t h, const Slot* queries,
              const Slot* keys)
      : a_(a), group_(group), b_(b), h_(h), queries_(queries), keys_(keys) {}

  T scale() const { return a_.head_scale ? in<T>(a_.head_scale)[h_] : T(a_.scale); }
  const T* query(int64_t i) const { return row_of<T>(a_.q, b_, queries_[i].row, h_); }
  const T* key(int64_t j) const { return row(j, a_.k, a_.memory_k, a_.pad_k); }
  const T* value(int64_t j) const { return row(j, a_.v, a_.memory_v, a_.pad_v); }

  T dot(int64_t i, int64_t j) const {
    T sum(0);
    if (const T* k = key(j))
      for (int64_t d = 0; d < a_.head_dim; ++d) sum += content(i, d) * k[d];
    return sum;
  }
  // What meets the keys: q, or q + u beside a relative term.
  T content(int64_t i, int64_t d) const {
    return a_.relative ? query(i)[d] + RelativeScores<T>(a_, b_, h_).u(d) : query(i)[d];
  }

  // The score of a pair; minus infinity where the pair is forbidden.
  T score(int64_t i, int64_t j) const {
    const PairRule& rule = a_.groups->rule_of(group_);
    const Slot& q = queries_[i];
    const Slot& k = keys_[j];
    T s = scale() * dot(i, j);
    if (a_.relative) {
      const RelativePair pair = relative_pair(*a_.relative, q, k);
      if (pair.kind == RelativePair::Kind::kForbidden) return T(kMinusInfinity);
      if (pair.kind == RelativePair::Kind::kRows) s += scale() * RelativeScores<T>(a_, b_, h_).term(pair);
    }
    if (a_.bias && group_.bias >= 0) s += in<T>(a_.bias)[bias_index(i, j)];
    if (labels_differ(i, j)) s += T(static_cast<double>(rule.region_penalty));
    if (k.source != RowSource::kToken) return s;

    if (a_.key_padding && a_.key_padding[b_ * a_.keys + k.row] != 0) return T(kMinusInfinity);
    for (const PairRule::Exclusion& e : rule.exclusions)
      if ((!k.free || e.of_free) && a_.groups->terms[static_cast<size_t>(e.term)].contains(q.row, k.row))
        return T(kMinusInfinity);
    if (!k.free) {
      const int64_t position = q.row + rule.query_position_shift;
      if (rule.causal && k.row > position) return T(kMinusInfinity);
      if (rule.band >= 0 && !in_band(rule, position, k.row)) return T(kMinusInfinity);
      if (position == k.row) s += T(static_cast<double>(rule.self_penalty));
    }
    if (a_.mask)
      s += in<T>(a_.mask)[b_ * a_.mask_batch_stride + h_ * a_.mask_head_stride + q.row * a_.mask_row_stride + k.row];
    return s;
  }

  // Element of bias and dbias for a pair; the group has a bias.
  int64_t bias_index(int64_t i, int64_t j) const {
    const TokenGroups::Bias& b = a_.groups->biases[static_cast<size_t>(group_.bias)];
    return a_.heads * b.offset + h_ * b.elements() + i * b.keys + j;
  }

 private:
  bool labels_differ(int64_t i, int64_t j) const {
    if (a_.groups->query_labels.empty()) return false;
    const int32_t q = a_.groups->query_labels[static_cast<size_t>(group_.query_slot + i)];
    const int32_t k = a_.groups->key_labels[static_cast<size_t>(group_.key_slot + j)];
    return q != k && q != kAnyLabel && k != kAnyLabel;
  }

  static bool in_band(const PairRule& rule, int64_t query, int64_t key) {
    const auto near = [&](int64_t x, int64_t y) {
      const int64_t difference = std::abs(x - y);
      return difference <= int64_t{rule.band} * rule.dilation && difference % rule.dilation == 0;
    };
    if (rule.map_width == 0) return near(query, key);
    query -= rule.first_row;
    key -= rule.first_row;
    return near(query / rule.map_width, key / rule.map_width) && near(query % rule.map_width, key % rule.map_width);
  }

  const T* row(int64_t j, const ConstHeadsView& tokens, const ConstHeadsView& memory, const void* pad) const {
    switch (keys_[j].source) {
      case RowSource::kToken: return row_of<T>(tokens, b_, keys_[j].row, h_);
      case RowSource::kMemory: return row_of<T>(memory, b_, keys_[j].row, h_);
      case RowSource::kPad: return pad ? in<T>(pad) + h_ * a_.head_dim : nullptr;
    }
    return nullptr;
  }

  const GroupedAttentionArgs& a_;
  const TokenGroups::Group& group_;
  int64_t b_, h_;
  const Slot* queries_;
  const Slot* keys_;
};

// Calls f(group, scores, query slots, key slots) for the groups of a batch element and head.
template <class T, class F>
void for_each_group(const GroupedAttentionArgs& a, int64_t b, int64_t h, Slot* queries, Slot* keys, F&& f, const GroupedAttentionArgs* with_int8_scores = nullptr) {
  const TokenGroups& groups = *a.groups;
  const TokenGroups::Range& range = groups.range(b, h);
  for (int32_t g = range.begin; g < range.end; ++g) {
    const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
    list_slots(groups, group.query_runs, group.query_runs_end, queries);
    list_slots(groups, group.key_runs, group.key_runs_end, keys);
    f(group, GroupScores<T>(a.has_int8_scores(group) && with_int8_scores ? *with_int8_scores : a, group, b, h, queries, keys));
  }
}

template <class T>
void zero_row(T* row, int64_t count) {
  for (int64_t d = 0; d < count; ++d) row[d] = T(0);
}

// In how many slots of a batch element and head each query row occurs.
inline void count_slots(const GroupedAttentionArgs& a, int64_t b, int64_t h, Slot* queries, int64_t* counts) {
  const TokenGroups& groups = *a.groups;
  for (int64_t n = 0; n < a.queries; ++n) counts[n] = 0;
  for (int32_t g = groups.range(b, h).begin; g < groups.range(b, h).end; ++g) {
    const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
    list_slots(groups, group.query_runs, group.query_runs_end, queries);
    for (int64_t i = 0; i < group.queries; ++i)
      if (queries[i].source == RowSource::kToken) ++counts[queries[i].row];
  }
}

// The log-sum-exp over all slots of each query row, from the slots' own.
template <class T>
void merge_lse(const GroupedAttentionArgs& a, int64_t b, int64_t h, Slot* queries, const T* slot_lse, T* row_lse) {
  using std::exp;
  using std::log;
  const TokenGroups& groups = *a.groups;
  for (int64_t n = 0; n < a.queries; ++n) row_lse[n] = T(kMinusInfinity);
  for (int32_t g = groups.range(b, h).begin; g < groups.range(b, h).end; ++g) {
    const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
    list_slots(groups, group.query_runs, group.query_runs_end, queries);
    for (int64_t i = 0; i < group.queries; ++i) {
      if (queries[i].source != RowSource::kToken) continue;
      T& total = row_lse[queries[i].row];
      const T one = slot_lse[group.query_slot + i];
      if (value_of(one) == kMinusInfinity) continue;
      if (value_of(total) == kMinusInfinity) {
        total = one;
      } else {
        const double max = value_of(one) > value_of(total) ? value_of(one) : value_of(total);
        total = T(max) + log(exp(one - T(max)) + exp(total - T(max)));
      }
    }
  }
}

inline int64_t memory_rows(const TokenGroups& groups) {
  int64_t rows = 0;
  for (const Run& run : groups.runs)
    if (run.source == RowSource::kMemory)
      rows = std::max({rows, int64_t{run.begin} + 1, run.begin + int64_t{run.count - 1} * run.stride + 1});
  return rows;
}

template <class T>
T rounded_to_bf16(T x) {
  return T(static_cast<double>(from_bf16(to_bf16(static_cast<float>(value_of(x))))));
}

// The same attention on operands in the table's own type; what a row's 2^x is rounded to is up to the caller.
template <class T>
GroupedAttentionArgs with_wide_operands(const GroupedAttentionArgs& a, Context& ctx) {
  const auto padding = [&](const void* pad) -> const void* {
    if (!pad) return pad;
    T* rounded = ctx.scratch().take<T>(a.heads * a.head_dim);
    for (int64_t i = 0; i < a.heads * a.head_dim; ++i) rounded[i] = rounded_to_bf16(in<T>(pad)[i]);
    return rounded;
  };
  const int64_t memory = memory_rows(*a.groups);
  GroupedAttentionArgs wide = a;
  wide.q = widened<T>(a.q, a.batch, a.queries, a.heads, a.head_dim, ctx);
  wide.k = widened<T>(a.k, a.batch, a.keys, a.heads, a.head_dim, ctx);
  wide.v = widened<T>(a.v, a.batch, a.keys, a.heads, a.head_dim, ctx);
  wide.memory_k = widened<T>(a.memory_k, a.batch, memory, a.heads, a.head_dim, ctx);
  wide.memory_v = widened<T>(a.memory_v, a.batch, memory, a.heads, a.head_dim, ctx);
  wide.pad_k = padding(a.pad_k);
  wide.pad_v = padding(a.pad_v);
  if (a.out_bf16) wide.out = {ctx.scratch().take<T>(a.batch * a.queries * a.heads * a.head_dim), a.queries * a.heads * a.head_dim, a.heads * a.head_dim, a.head_dim};
  return wide;
}

// The same attention, of wide operands, on rows of q and k as scores of integers see them.
template <class T>
GroupedAttentionArgs with_rounded_scores(const GroupedAttentionArgs& a, Context& ctx) {
  const auto rows = [&](const void* data, int64_t count) -> const void* {
    if (!data) return data;
    T* rounded = ctx.scratch().take<T>(count * a.head_dim);
    std::copy_n(in<T>(data), count * a.head_dim, rounded);
    for (int64_t i = 0; i < count; ++i) round_operand(ProductType::kInt8, rounded + i * a.head_dim, a.head_dim, 1);
    return rounded;
  };
  GroupedAttentionArgs r = a;
  r.q.data = rows(a.q.data, a.batch * a.queries * a.heads);
  r.k.data = rows(a.k.data, a.batch * a.keys * a.heads);
  r.memory_k.data = rows(a.memory_k.data, a.batch * memory_rows(*a.groups) * a.heads);
  r.pad_k = rows(a.pad_k, a.heads);
  return r;
}

// The reference point of a row's weights: the greatest score, or as much more as makes it a whole number in base 2.
inline double reference_point(double greatest, bool bf16) {
  return bf16 && std::isfinite(greatest) ? std::ceil(greatest / std::log(2.0)) * std::log(2.0) : greatest;
}

template <class T>
void grouped_attention(const GroupedAttentionArgs& args, Context& ctx) {
  using std::exp;
  using std::log;
  const TokenGroups& groups = *args.groups;
  check(!args.bf16 || (!std::is_same_v<T, Dual> && !args.relative), "attention in bf16 has no derivative and no relative term");
  check(!args.int8_scores || args.bf16, "scores of integers stand beside products in bfloat16");
  check(!args.out_bf16 || (args.bf16 && groups.reduction == Reduction::kAssign), "attention writes bfloat16 where it multiplies in it and each row occurs once");
  ArenaScope scope(ctx.scratch());
  const GroupedAttentionArgs a = args.bf16 ? with_wide_operands<T>(args, ctx) : args;
  const GroupedAttentionArgs with_int8_scores = args.int8_scores ? with_rounded_scores<T>(a, ctx) : a;
  Slot* queries = ctx.scratch().take<Slot>(groups.max_queries);
  Slot* keys = ctx.scratch().take<Slot>(groups.max_keys);
  T* p = ctx.scratch().take<T>(groups.max_keys);
  T* slot_out = ctx.scratch().take<T>(groups.query_slots * a.head_dim);
  T* slot_lse = ctx.scratch().take<T>(groups.query_slots);
  T* row_lse = ctx.scratch().take<T>(a.queries);
  int64_t* counts = ctx.scratch().take<int64_t>(a.queries);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t s = 0; s < groups.query_slots; ++s) slot_lse[s] = T(kMinusInfinity);

      for_each_group<T>(a, b, h, queries, keys, [&](const TokenGroups::Group& group, const GroupScores<T>& scores) {
        for (int64_t i = 0; i < group.queries; ++i) {
          T* o = slot_out + (group.query_slot + i) * a.head_dim;
          zero_row(o, a.head_dim);
          if (queries[i].source != RowSource::kToken) continue;
          double max = kMinusInfinity;
          for (int64_t j = 0; j < group.keys; ++j) {
            p[j] = scores.score(i, j);
            if (value_of(p[j]) > max) max = value_of(p[j]);
          }
          T sum(0);
          bool any = false;
          max = reference_point(max, a.bf16);
          for (int64_t j = 0; j < group.keys; ++j) {
            if (value_of(p[j]) == kMinusInfinity) continue;
            any = true;
            T weight = exp(p[j] - T(max));
            sum += weight;
            if (a.bf16) weight = rounded_to_bf16(weight);
            if (const T* v = scores.value(j))
              for (int64_t d = 0; d < a.head_dim; ++d) o[d] += weight * v[d];
          }
          if (!any) continue;
          for (int64_t d = 0; d < a.head_dim; ++d) o[d] /= sum;
          slot_lse[group.query_slot + i] = T(max) + log(sum);
        }
      }, &with_int8_scores);

      // The reduction over the slots of a row.
      if (groups.reduction == Reduction::kMean) count_slots(a, b, h, queries, counts);
      if (groups.reduction == Reduction::kMergeLse) merge_lse<T>(a, b, h, queries, slot_lse, row_lse);
      for (int64_t n = 0; n < a.queries; ++n) zero_row(row_of<T>(a.out, b, n, h), a.head_dim);
      for_each_group<T>(a, b, h, queries, keys, [&](const TokenGroups::Group& group, const GroupScores<T>&) {
        for (int64_t i = 0; i < group.queries; ++i) {
          if (queries[i].source != RowSource::kToken) continue;
          const int64_t slot = group.query_slot + i, row = queries[i].row;
          if (value_of(slot_lse[slot]) == kMinusInfinity) continue;
          T weight(1);
          if (groups.reduction == Reduction::kMean)
            weight = T(1 / (static_cast<double>(counts[row]) + groups.mean_epsilon));
          if (groups.reduction == Reduction::kMergeLse) weight = exp(slot_lse[slot] - row_lse[row]);
          T* o = row_of<T>(a.out, b, row, h);
          for (int64_t d = 0; d < a.head_dim; ++d) o[d] += weight * slot_out[slot * a.head_dim + d];
        }
      });
      if (a.lse) {
        T* lse = out<T>(a.lse) + (b * a.heads + h) * groups.query_slots;
        for (int64_t s = 0; s < groups.query_slots; ++s) lse[s] = slot_lse[s];
      }
      for (int64_t n = 0; args.out_bf16 && n < a.queries; ++n)
        for (int64_t d = 0; d < a.head_dim; ++d)
          row_of<uint16_t>(args.out, b, n, h)[d] = to_bf16(static_cast<float>(value_of(row_of<T>(a.out, b, n, h)[d])));
    }
  }
}

// With P = exp(S - lse), G = dout (divided by count + epsilon under kMean):
// dv_j += P_ij G_i; dS_ij = P_ij (G_i · v_j - D_i), D_i = G_i · O_i; dq_i += scale sum_j dS_ij k_j; dk_j += scale dS_ij q_i;
// dbias_ij += dS_ij; dhead_scale += dS_ij q_i · k_j. Under kMergeLse lse is that of the row over all its slots, so that P
// are the probabilities of the union. The relative term of a pair has the gradient scale dS_ij. O_i is the slot's own
// output, which kMean alone has to recompute.
template <class T>
void grouped_attention_backward(const GroupedAttentionBackwardArgs& args, Context& ctx) {
  using std::exp;
  const GroupedAttentionArgs& a = args.forward;
  const TokenGroups& groups = *a.groups;
  check(a.lse != nullptr && a.out.data != nullptr && !a.bf16, "grouped attention's backward needs the forward's out and lse, in the table's own type");
  ArenaScope scope(ctx.scratch());
  Slot* queries = ctx.scratch().take<Slot>(groups.max_queries);
  Slot* keys = ctx.scratch().take<Slot>(groups.max_keys);
  T* p = ctx.scratch().take<T>(groups.max_keys);
  T* dp = ctx.scratch().take<T>(groups.max_keys);
  T* g = ctx.scratch().take<T>(a.head_dim);
  T* row_lse = ctx.scratch().take<T>(a.queries);
  int64_t* counts = ctx.scratch().take<int64_t>(a.queries);

  // Zeros first, since rows collect from every group; memory rows are as many as the runs name.
  const int64_t of_memory = memory_rows(groups);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t n = 0; n < a.queries; ++n) zero_row(row_of<T>(args.dq, b, n, h), a.head_dim);
      for (int64_t n = 0; n < a.keys; ++n) {
        zero_row(row_of<T>(args.dk, b, n, h), a.head_dim);
        zero_row(row_of<T>(args.dv, b, n, h), a.head_dim);
      }
      if (!args.dmemory_k.data) continue;
      for (int64_t n = 0; n < of_memory; ++n) {
        zero_row(row_of<T>(args.dmemory_k, b, n, h), a.head_dim);
        zero_row(row_of<T>(args.dmemory_v, b, n, h), a.head_dim);
      }
    }

  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const T* slot_lse = in<T>(a.lse) + (b * a.heads + h) * groups.query_slots;
      if (groups.reduction == Reduction::kMean) count_slots(a, b, h, queries, counts);
      if (groups.reduction == Reduction::kMergeLse) merge_lse<T>(a, b, h, queries, slot_lse, row_lse);

      const auto gradient_row = [&](int64_t j, const HeadsView& tokens, const HeadsView& memory, void* pad) -> T* {
        switch (keys[j].source) {
          case RowSource::kToken: return row_of<T>(tokens, b, keys[j].row, h);
          case RowSource::kMemory: return row_of<T>(memory, b, keys[j].row, h);
          case RowSource::kPad: return pad ? out<T>(pad) + h * a.head_dim : nullptr;
        }
        return nullptr;
      };

      for_each_group<T>(a, b, h, queries, keys, [&](const TokenGroups::Group& group, const GroupScores<T>& scores) {
        for (int64_t i = 0; i < group.queries; ++i) {
          if (queries[i].source != RowSource::kToken) continue;
          const int64_t row = queries[i].row;
          const T lse = groups.reduction == Reduction::kMergeLse ? row_lse[row] : slot_lse[group.query_slot + i];
          if (value_of(lse) == kMinusInfinity) continue;
          const T share(groups.reduction == Reduction::kMean ? 1 / (static_cast<double>(counts[row]) + groups.mean_epsilon)
                                                             : 1.0);
          for (int64_t d = 0; d < a.head_dim; ++d) g[d] = row_of<T>(args.dout, b, row, h)[d] * share;

          T row_sum(0);
          if (groups.reduction != Reduction::kMean)
            for (int64_t d = 0; d < a.head_dim; ++d) row_sum += g[d] * row_of<T>(ConstHeadsView(a.out), b, row, h)[d];
          for (int64_t j = 0; j < group.keys; ++j) {
            const T s = scores.score(i, j);
            p[j] = value_of(s) == kMinusInfinity ? T(0) : exp(s - lse);
            dp[j] = T(0);
            if (const T* v = scores.value(j))
              for (int64_t d = 0; d < a.head_dim; ++d) dp[j] += g[d] * v[d];
            if (groups.reduction == Reduction::kMean) row_sum += p[j] * dp[j];
          }

          T* dq = row_of<T>(args.dq, b, row, h);
          for (int64_t j = 0; j < group.keys; ++j) {
            const T ds = p[j] * (dp[j] - row_sum);
            const T scaled = scores.scale() * ds;
            const T* k = scores.key(j);
            T* dk = gradient_row(j, args.dk, args.dmemory_k, args.dpad_k);
            T* dv = gradient_row(j, args.dv, args.dmemory_v, args.dpad_v);
            for (int64_t d = 0; d < a.head_dim; ++d) {
              if (k) dq[d] += scaled * k[d];
              if (k && args.relative.du) out<T>(args.relative.du)[h * a.head_dim + d] += scaled * k[d];
              if (dk) dk[d] += scaled * scores.content(i, d);
              if (dv) dv[d] += p[j] * g[d];
            }
            if (a.relative) {
              const RelativePair pair = relative_pair(*a.relative, queries[i], keys[j]);
              if (pair.kind == RelativePair::Kind::kRows)
                RelativeScores<T>(a, b, h).add_gradients(pair, scaled, row_of<T>(args.dq, b, pair.query, h), args.relative);
            }
            if (args.dbias && group.bias >= 0) out<T>(args.dbias)[scores.bias_index(i, j)] += ds;
            if (args.dhead_scale) out<T>(args.dhead_scale)[h] += ds * scores.dot(i, j);
          }
        }
      });
    }
  }
}

}  // namespace fovea::reference
