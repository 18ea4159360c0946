// Grouped attention of every instruction set against a dense oracle in double: all pairs of all groups, one by one, with
// each number's magnitude sum beside it, from which the tolerance follows.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/context.h"
#include "kernels/attention_sizes.h"
#include "kernels/isa_tables.h"

namespace fovea {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kUntouched = -54321.0f;

const std::vector<NamedTable>& tables() {
  static const std::vector<NamedTable> all = [] {
    std::vector<NamedTable> t;
    for_each_isa([&t](const std::string& name, Isa isa) { fill_grouped_attention(t.emplace_back(NamedTable{name}).table, isa); });
    return t;
  }();
  return all;
}

struct Case {
  std::string name;
  TokenGroups groups;
  int64_t batch = 2, heads = 2, head_dim = 32, queries = 0, keys = 0, memory = 0;
  bool head_scale = false, bias = false, mask = false, padding = false, pad_rows = false, shared_memory = false;
  bool shared_kv_head = false;
  bool mask_rows_out = false;  // every third query row is masked entirely
  double sharpness = 1;        // factor on q
};

// Heads rows in a buffer with gaps that belong to nobody.
struct Rows {
  int64_t batch, heads, rows, dim, token, per_head, per_batch;
  std::vector<float> data;
  Rows(int64_t b, int64_t h, int64_t n, int64_t d, bool one_head = false, bool one_batch = false)
      : batch(b), heads(h), rows(n), dim(d), token((one_head ? 1 : h) * d + 3), per_head(one_head ? 0 : d),
        per_batch(one_batch ? 0 : n * token + 5), data(static_cast<size_t>((one_batch ? 1 : b) * (n * token + 5) + 1), kUntouched) {}
  int64_t at(int64_t b, int64_t h, int64_t n, int64_t i) const { return 1 + b * per_batch + n * token + h * per_head + i; }
  void fill(const Rng& rng, double scale) {
    for_each([&](int64_t p) { data[static_cast<size_t>(p)] = static_cast<float>(scale * rng.normal(static_cast<uint64_t>(p))); });
  }
  void fill(float value) {
    for_each([&](int64_t p) { data[static_cast<size_t>(p)] = value; });
  }
  template <class F>
  void for_each(F&& f) const {
    for (int64_t b = 0; b < (per_batch ? batch : 1); ++b)
      for (int64_t h = 0; h < (per_head ? heads : 1); ++h)
        for (int64_t n = 0; n < rows; ++n)
          for (int64_t i = 0; i < dim; ++i) f(at(b, h, n, i));
  }
  ConstHeadsView view() const { return {data.data() + 1, per_batch, token, per_head}; }
  HeadsView view() { return {data.data() + 1, per_batch, token, per_head}; }
};

// A value and the sum of the magnitudes that it was added up from.
struct Number {
  double value = 0, magnitude = 0;
  void add(double v, double m) {
    value += v;
    magnitude += m;
  }
};
using Numbers = std::vector<Number>;

struct Inputs {
  Rows q, k, v, mk, mv, dout;
  std::vector<float> pad_k, pad_v, head_scale, bias, mask;
  std::vector<uint8_t> padding;
  int64_t mask_row = 0, mask_head = 0, mask_batch = 0;
  explicit Inputs(const Case& c)
      : q(c.batch, c.heads, c.queries, c.head_dim),
        k(c.batch, c.heads, c.keys, c.head_dim, c.shared_kv_head),
        v(c.batch, c.heads, c.keys, c.head_dim, c.shared_kv_head),
        mk(c.batch, c.heads, c.memory, c.head_dim, false, c.shared_memory),
        mv(c.batch, c.heads, c.memory, c.head_dim, false, c.shared_memory),
        dout(c.batch, c.heads, c.queries, c.head_dim) {
    const Rng rng(11, static_cast<uint64_t>(c.head_dim * 1000 + c.queries));
    q.fill(rng.fork(1), c.sharpness);
    k.fill(rng.fork(2), 1);
    v.fill(rng.fork(3), 1);
    mk.fill(rng.fork(4), 1);
    mv.fill(rng.fork(5), 1);
    dout.fill(rng.fork(6), 1);
    const auto draw = [&](std::vector<float>& to, int64_t n, uint64_t tag, double scale, double offset) {
      to.resize(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i)
        to[static_cast<size_t>(i)] = static_cast<float>(offset + scale * rng.fork(tag).normal(static_cast<uint64_t>(i)));
    };
    if (c.pad_rows) {
      draw(pad_k, c.heads * c.head_dim, 7, 1, 0);
      draw(pad_v, c.heads * c.head_dim, 8, 1, 0);
    }
    if (c.head_scale) draw(head_scale, c.heads, 9, 0.02, 0.2);
    if (c.bias) draw(bias, c.heads * c.groups.bias_elements(), 10, 0.5, 0);
    mask_row = c.keys + 1;
    mask_head = mask_row * c.queries;
    mask_batch = mask_head * c.heads;
    if (c.mask) {
      draw(mask, c.batch * mask_batch, 12, 0.5, 0);
      for (size_t i = 0; i < mask.size(); ++i)
        if (i % 5 == 3 || (c.mask_rows_out && i / static_cast<size_t>(mask_row) % 3 == 1)) mask[i] = -static_cast<float>(kInf);
    }
    if (c.padding) {
      padding.resize(static_cast<size_t>(c.batch * c.keys));
      for (size_t i = 0; i < padding.size(); ++i) padding[i] = i % 4 == 1 ? 1 : 0;
    }
  }
};

struct Outputs {
  Rows out, dq, dk, dv, dmk, dmv;
  std::vector<float> lse, dpad_k, dpad_v, dbias, dhead_scale;
  Outputs(const Case& c, const Inputs& in) : out(in.q), dq(in.q), dk(in.k), dv(in.v), dmk(in.mk), dmv(in.mv) {
    for (Rows* r : {&out, &dq, &dk, &dv, &dmk, &dmv}) r->fill(std::numeric_limits<float>::quiet_NaN());
    lse.assign(static_cast<size_t>(c.batch * c.heads * c.groups.query_slots), std::numeric_limits<float>::quiet_NaN());
    dpad_k.assign(static_cast<size_t>(c.heads * c.head_dim), 0.25f);  // these are added to
    dpad_v = dpad_k;
    dbias.assign(static_cast<size_t>(c.heads * c.groups.bias_elements()), 0.25f);
    dhead_scale.assign(static_cast<size_t>(c.heads), 0.25f);
  }
};

void run(const Case& c, const Inputs& in, Outputs& o, const KernelTable& table, int threads) {
  Context ctx(table, DType::kF32, threads);
  GroupedAttentionBackwardArgs g;
  GroupedAttentionArgs& a = g.forward;
  set_sizes(c, a);
  if (c.head_scale) a.head_scale = in.head_scale.data();
  a.q = in.q.view();
  a.k = in.k.view();
  a.v = in.v.view();
  if (c.memory) {
    a.memory_k = in.mk.view();
    a.memory_v = in.mv.view();
    g.dmemory_k = o.dmk.view();
    g.dmemory_v = o.dmv.view();
  }
  if (c.pad_rows) {
    a.pad_k = in.pad_k.data();
    a.pad_v = in.pad_v.data();
    g.dpad_k = o.dpad_k.data();
    g.dpad_v = o.dpad_v.data();
  }
  if (c.bias) {
    a.bias = in.bias.data();
    g.dbias = o.dbias.data();
  }
  if (c.mask) {
    a.mask = in.mask.data();
    a.mask_batch_stride = in.mask_batch;
    a.mask_head_stride = in.mask_head;
    a.mask_row_stride = in.mask_row;
  }
  if (c.padding) a.key_padding = in.padding.data();
  a.out = o.out.view();
  a.lse = o.lse.data();
  table.grouped_attention(a, ctx);
  g.dout = in.dout.view();
  g.dq = o.dq.view();
  g.dk = o.dk.view();
  g.dv = o.dv.view();
  if (c.head_scale) g.dhead_scale = o.dhead_scale.data();
  table.grouped_attention_backward(g, ctx);
  EXPECT_EQ(ctx.scratch().used(), 0u);
}

struct Slot {
  int64_t row;
  RowSource source;
  bool free;
};
std::vector<Slot> slots(const TokenGroups& g, int32_t begin, int32_t end) {
  std::vector<Slot> all;
  for (int32_t r = begin; r < end; ++r) {
    const Run& run = g.runs[static_cast<size_t>(r)];
    for (int32_t i = 0; i < run.count; ++i) all.push_back({run.begin + int64_t{i} * run.stride, run.source, run.free});
  }
  return all;
}

// What the kernel must give, from the definition: P over the row's keys (of one slot, or of all under kMergeLse).
class Oracle {
 public:
  Numbers out, lse, dq, dk, dv, dmk, dmv, dpad_k, dpad_v, dbias, dhead_scale;
  double score_magnitude = 0;  // greatest sum of magnitudes behind a score

  Oracle(const Case& c, const Inputs& in) : c_(c), in_(in) {
    const auto like = [](const Rows& r) { return Numbers(r.data.size()); };
    out = like(in.q), dq = like(in.q), dk = like(in.k), dv = like(in.v), dmk = like(in.mk), dmv = like(in.mv);
    lse.assign(static_cast<size_t>(c.batch * c.heads * c.groups.query_slots), {-kInf, 0});
    dpad_k.assign(static_cast<size_t>(c.heads * c.head_dim), {0.25, 0.25});
    dpad_v = dpad_k;
    dbias.assign(static_cast<size_t>(c.heads * c.groups.bias_elements()), {0.25, 0.25});
    dhead_scale.assign(static_cast<size_t>(c.heads), {0.25, 0.25});
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t row = 0; row < c.queries; ++row) attend(b, h, row);
  }

 private:
  struct Pair {
    int64_t query_slot;  // in lse
    int64_t bias;        // element of bias, or -1
    Slot key;
    double score;
  };

  void attend(int64_t b, int64_t h, int64_t row) {
    const TokenGroups& g = c_.groups;
    const TokenGroups::Range range = g.range(b, h);
    std::vector<std::vector<Pair>> sets;  // one for each slot of the row
    for (int32_t n = range.begin; n < range.end; ++n) {
      const TokenGroups::Group& group = g.groups[static_cast<size_t>(n)];
      const auto queries = slots(g, group.query_runs, group.query_runs_end), keys = slots(g, group.key_runs, group.key_runs_end);
      for (int64_t i = 0; i < group.queries; ++i) {
        if (queries[static_cast<size_t>(i)].source != RowSource::kToken || queries[static_cast<size_t>(i)].row != row) continue;
        std::vector<Pair>& set = sets.emplace_back();
        double total = 0, max = -kInf;
        for (int64_t j = 0; j < group.keys; ++j) {
          const double s = score(b, h, group, row, i, j, keys[static_cast<size_t>(j)]);
          if (s == -kInf) continue;
          set.push_back({group.query_slot + i, bias_element(h, group, i, j), keys[static_cast<size_t>(j)], s});
          max = std::max(max, s);
        }
        for (const Pair& p : set) total += std::exp(p.score - max);
        const double l = set.empty() ? -kInf : max + std::log(total);
        lse[static_cast<size_t>((b * c_.heads + h) * g.query_slots + group.query_slot + i)] = {l, set.empty() ? 0 : std::abs(l) + 1};
      }
    }
    double share = 1;
    if (g.reduction == Reduction::kMean) share = 1 / (static_cast<double>(sets.size()) + g.mean_epsilon);
    if (g.reduction == Reduction::kMergeLse && sets.size() > 1) {
      for (size_t s = 1; s < sets.size(); ++s) sets[0].insert(sets[0].end(), sets[s].begin(), sets[s].end());
      sets.resize(1);
    }
    for (const auto& set : sets) softmax(b, h, row, set, share);
  }

  double score(int64_t b, int64_t h, const TokenGroups::Group& group, int64_t row, int64_t i, int64_t j, const Slot& key) {
    const PairRule& rule = c_.groups.rule_of(group);
    double dot = 0, magnitude = 0;
    for (int64_t d = 0; d < c_.head_dim; ++d) {
      const double t = query(b, h, row, d) * k(b, h, key, d);
      dot += t;
      magnitude += std::abs(t);
    }
    double s = scale(h) * dot;
    magnitude *= scale(h);
    const auto add = [&](double x) {
      s += x;
      if (std::isfinite(x) && std::abs(x) < 50) magnitude += std::abs(x);  // a penalty's own error does not matter
    };
    if (const int64_t at = bias_element(h, group, i, j); at >= 0) add(in_.bias[static_cast<size_t>(at)]);
    if (!c_.groups.query_labels.empty()) {
      const int32_t of_query = c_.groups.query_labels[static_cast<size_t>(group.query_slot + i)];
      const int32_t of_key = c_.groups.key_labels[static_cast<size_t>(group.key_slot + j)];
      if (of_query != of_key && of_query != -1 && of_key != -1) add(rule.region_penalty);
    }
    if (key.source == RowSource::kToken) {
      if (c_.padding && in_.padding[static_cast<size_t>(b * c_.keys + key.row)]) return -kInf;
      for (const PairRule::Exclusion& e : rule.exclusions)
        if ((e.of_free || !key.free) && c_.groups.terms[static_cast<size_t>(e.term)].contains(row, key.row)) return -kInf;
      if (!key.free) {
        const int64_t at = row + rule.query_position_shift;
        if (rule.causal && key.row > at) return -kInf;
        const auto far = [&](int64_t x, int64_t y) {
          const int64_t distance = std::abs(x - y);
          return distance > int64_t{rule.band} * rule.dilation || distance % rule.dilation != 0;
        };
        if (rule.band >= 0 && rule.map_width == 0 && far(at, key.row)) return -kInf;
        if (rule.band >= 0 && rule.map_width > 0) {
          const int64_t q = row - rule.first_row, k = key.row - rule.first_row, w = rule.map_width;
          if (far(q / w, k / w) || far(q % w, k % w)) return -kInf;
        }
        if (at == key.row) add(rule.self_penalty);
      }
      if (c_.mask)
        add(in_.mask[static_cast<size_t>(b * in_.mask_batch + h * in_.mask_head + row * in_.mask_row + key.row)]);
    }
    score_magnitude = std::max(score_magnitude, magnitude);
    return s;
  }

  int64_t bias_element(int64_t h, const TokenGroups::Group& group, int64_t i, int64_t j) const {
    if (!c_.bias || group.bias < 0) return -1;
    const TokenGroups::Bias& table = c_.groups.biases[static_cast<size_t>(group.bias)];
    return c_.heads * table.offset + (h * table.queries + i) * table.keys + j;
  }

  void softmax(int64_t b, int64_t h, int64_t row, const std::vector<Pair>& set, double share) {
    double max = -kInf, total = 0;
    for (const Pair& p : set) max = std::max(max, p.score);
    for (const Pair& p : set) total += std::exp(p.score - max);
    std::vector<double> o(static_cast<size_t>(c_.head_dim)), o_magnitude(o.size());
    for (const Pair& p : set) {
      for (int64_t d = 0; d < c_.head_dim; ++d) {
        const double x = std::exp(p.score - max) / total * v(b, h, p.key, d);
        o[static_cast<size_t>(d)] += x;
        o_magnitude[static_cast<size_t>(d)] += std::abs(x);
      }
    }
    Number delta;
    for (int64_t d = 0; d < c_.head_dim; ++d) {
      const auto i = static_cast<size_t>(d);
      out[static_cast<size_t>(in_.q.at(b, h, row, d))].add(share * o[i], share * o_magnitude[i]);
      const double g = share * in_.dout.data[static_cast<size_t>(in_.dout.at(b, h, row, d))];
      delta.add(g * o[i], std::abs(g) * o_magnitude[i]);
    }
    for (const Pair& p : set) {
      const double probability = std::exp(p.score - max) / total;
      Number dp;
      Number dot;
      for (int64_t d = 0; d < c_.head_dim; ++d) {
        const double g = share * in_.dout.data[static_cast<size_t>(in_.dout.at(b, h, row, d))];
        const double t = g * v(b, h, p.key, d), x = query(b, h, row, d) * k(b, h, p.key, d);
        dp.add(t, std::abs(t));
        dot.add(x, std::abs(x));
      }
      const double ds = probability * (dp.value - delta.value), size = probability * (dp.magnitude + delta.magnitude);
      if (p.bias >= 0) dbias[static_cast<size_t>(p.bias)].add(ds, size);
      dhead_scale[static_cast<size_t>(h)].add(ds * dot.value, size * dot.magnitude);
      for (int64_t d = 0; d < c_.head_dim; ++d) {
        const double g = share * in_.dout.data[static_cast<size_t>(in_.dout.at(b, h, row, d))];
        const double kd = k(b, h, p.key, d), qd = query(b, h, row, d);
        dq[static_cast<size_t>(in_.q.at(b, h, row, d))].add(scale(h) * ds * kd, scale(h) * size * std::abs(kd));
        gradient(p.key, dk, dmk, dpad_k, b, h, d).add(scale(h) * ds * qd, scale(h) * size * std::abs(qd));
        gradient(p.key, dv, dmv, dpad_v, b, h, d).add(probability * g, probability * std::abs(g));
      }
    }
  }

  double scale(int64_t h) const {
    return c_.head_scale ? static_cast<double>(in_.head_scale[static_cast<size_t>(h)])
                         : 1 / std::sqrt(static_cast<double>(c_.head_dim));
  }
  double query(int64_t b, int64_t h, int64_t row, int64_t d) const { return in_.q.data[static_cast<size_t>(in_.q.at(b, h, row, d))]; }
  double k(int64_t b, int64_t h, const Slot& s, int64_t d) const { return key(in_.k, in_.mk, in_.pad_k, b, h, s, d); }
  double v(int64_t b, int64_t h, const Slot& s, int64_t d) const { return key(in_.v, in_.mv, in_.pad_v, b, h, s, d); }
  double key(const Rows& token, const Rows& memory, const std::vector<float>& pad, int64_t b, int64_t h, const Slot& s,
             int64_t d) const {
    if (s.source == RowSource::kToken) return token.data[static_cast<size_t>(token.at(b, h, s.row, d))];
    if (s.source == RowSource::kMemory) return memory.data[static_cast<size_t>(memory.at(b, h, s.row, d))];
    return pad.empty() ? 0 : pad[static_cast<size_t>(h * c_.head_dim + d)];
  }
  Number& gradient(const Slot& s, Numbers& token, Numbers& memory, Numbers& pad, int64_t b, int64_t h, int64_t d) {
    if (s.source == RowSource::kToken) return token[static_cast<size_t>(in_.k.at(b, h, s.row, d))];
    if (s.source == RowSource::kMemory) return memory[static_cast<size_t>(in_.mk.at(b, h, s.row, d))];
    return pad[static_cast<size_t>(h * c_.head_dim + d)];
  }

  const Case& c_;
  const Inputs& in_;
};

// |actual - expected| <= tolerance * magnitude sum, element by element.
void expect_near(const std::vector<float>& actual, const Numbers& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  int wrong = 0;
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double e = expected[i].value, a = static_cast<double>(actual[i]);
    const double error = a == e ? 0 : std::abs(a - e);  // equal infinities
    const double bound = tolerance * expected[i].magnitude + 1e-30;
    worst = std::max(worst, error / bound);
    if (!(error <= bound) && ++wrong <= 3) ADD_FAILURE() << what << "[" << i << "]: got " << a << ", expected " << e << " +- " << bound;
  }
  if (wrong) ADD_FAILURE() << what << ": " << wrong << " of " << actual.size() << " wrong, the worst by " << worst;
}
void expect_near(const Rows& actual, const Numbers& expected, double tolerance, const std::string& what) {
  std::vector<float> a;
  Numbers e;
  std::vector<bool> mine(actual.data.size());
  actual.for_each([&](int64_t p) {
    a.push_back(actual.data[static_cast<size_t>(p)]);
    e.push_back(expected[static_cast<size_t>(p)]);
    mine[static_cast<size_t>(p)] = true;
  });
  expect_near(a, e, tolerance, what);
  for (size_t i = 0; i < mine.size(); ++i)
    if (!mine[i] && actual.data[i] != kUntouched) ADD_FAILURE() << what << ": wrote outside its rows at " << i;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void verify(const Case& c, bool all_tables = true) {
  SCOPED_TRACE(c.name);
  const Inputs in(c);
  const Oracle oracle(c, in);
  for (const NamedTable& t : tables()) {
    if (!all_tables && &t != &tables().back()) continue;
    SCOPED_TRACE(t.name);
    Outputs o(c, in);
    run(c, in, o, t.table, 1);
    // Unit roundoff u. A score errs by a few u of its magnitude sum, so a probability by twice that relative to itself,
    // plus the exponential and the sums of `keys` terms. The backward's probabilities come from the rounded lse as well.
    const double u = std::ldexp(1.0, -24);
    const double score = 4 * u * oracle.score_magnitude;
    const double forward = 2 * score + (8 + std::sqrt(static_cast<double>(c.groups.max_keys))) * u;
    const double backward = 3 * forward + std::sqrt(static_cast<double>(c.groups.max_queries)) * u;
    expect_near(o.out, oracle.out, forward, "out");
    expect_near(o.lse, oracle.lse, forward, "lse");
    expect_near(o.dq, oracle.dq, backward, "dq");
    expect_near(o.dk, oracle.dk, backward, "dk");
    expect_near(o.dv, oracle.dv, backward, "dv");
    if (c.memory) {
      expect_near(o.dmk, oracle.dmk, backward, "dmemory_k");
      expect_near(o.dmv, oracle.dmv, backward, "dmemory_v");
    }
    if (c.pad_rows) {
      expect_near(o.dpad_k, oracle.dpad_k, backward, "dpad_k");
      expect_near(o.dpad_v, oracle.dpad_v, backward, "dpad_v");
    }
    if (c.bias) expect_near(o.dbias, oracle.dbias, backward, "dbias");
    if (c.head_scale) expect_near(o.dhead_scale, oracle.dhead_scale, backward, "dhead_scale");
    for (int threads = 2; threads <= 3; ++threads) {
      Outputs p(c, in);
      run(c, in, p, t.table, threads);
      EXPECT_TRUE(same(o.out.data, p.out.data) && same(o.lse, p.lse)) << "forward differs with " << threads << " threads";
      EXPECT_TRUE(same(o.dq.data, p.dq.data) && same(o.dk.data, p.dk.data) && same(o.dv.data, p.dv.data) &&
                  same(o.dmk.data, p.dmk.data) && same(o.dmv.data, p.dmv.data) && same(o.dpad_k, p.dpad_k) &&
                  same(o.dpad_v, p.dpad_v) && same(o.dbias, p.dbias) && same(o.dhead_scale, p.dhead_scale))
          << "backward differs with " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace fovea
