// Grouped attention of every instruction set against a dense oracle in double: all pairs of all groups, one by one, with
// each number's magnitude sum beside it, from which the tolerance follows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/context.h"
#include "kernels/cpu/isa.h"

namespace fovea {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kUntouched = -54321.0f;

struct NamedTable {
  std::string name;
  KernelTable table{};
};

const std::vector<NamedTable>& tables() {
  static const std::vector<NamedTable> all = [] {
    std::vector<NamedTable> t;
    fill_grouped_attention(t.emplace_back(NamedTable{"baseline"}).table, Isa::kBaseline);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      fill_grouped_attention(t.emplace_back(NamedTable{"avx2"}).table, Isa::kAvx2);
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      fill_grouped_attention(t.emplace_back(NamedTable{"avx512"}).table, Isa::kAvx512);
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
  a.groups = &c.groups;
  a.batch = c.batch;
  a.heads = c.heads;
  a.head_dim = c.head_dim;
  a.queries = c.queries;
  a.keys = c.keys;
  a.scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
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

Run tokens(int64_t begin, int64_t count, int64_t stride = 1) {
  return {static_cast<int32_t>(begin), static_cast<int32_t>(stride), static_cast<int32_t>(count)};
}
Run free_tokens(int64_t begin, int64_t count, int64_t stride = 1) {
  Run run = tokens(begin, count, stride);
  run.free = true;
  return run;
}
Run pads(int32_t count) { return {.count = count, .source = RowSource::kPad}; }
Run memory_rows(int32_t begin, int32_t count) { return {.begin = begin, .count = count, .source = RowSource::kMemory}; }

void add_group(TokenGroups& g, const std::vector<Run>& queries, const std::vector<Run>& keys, int32_t rule = 0, int32_t bias = 0) {
  g.begin_group(rule, bias);
  for (const Run& r : queries) g.add_query_run(r);
  for (const Run& r : keys) g.add_key_run(r);
  g.end_group();
}

Case global(int64_t queries, int64_t keys, int64_t head_dim) {
  Case c;
  c.name = fmt::format("global {} x {} x {}", queries, keys, head_dim);
  c.queries = queries;
  c.keys = keys;
  c.head_dim = head_dim;
  add_group(c.groups, {tokens(0, queries)}, {tokens(0, keys)});
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

// Windows of side `w` over a height x width map that is padded to multiples of w and then rolled by `shift`; labels are the
// regions of Swin.
Case windows(int32_t height, int32_t width, int32_t w, int32_t shift) {
  Case c;
  c.name = fmt::format("windows {} of {} x {}, shift {}", w, height, width, shift);
  c.queries = c.keys = height * width;
  const int32_t h = (height + w - 1) / w * w, v = (width + w - 1) / w * w;
  const auto region = [&](int32_t i, int32_t length) { return shift == 0 || i < length - w ? 0 : i < length - shift ? 1 : 2; };
  for (int32_t y0 = 0; y0 < h; y0 += w) {
    for (int32_t x0 = 0; x0 < v; x0 += w) {
      std::vector<Run> runs;
      for (int32_t y = y0; y < y0 + w; ++y) {
        for (int32_t x = x0; x < x0 + w; ++x) {
          const int32_t from_y = (y + shift) % h, from_x = (x + shift) % v;
          runs.push_back(from_y < height && from_x < width ? tokens(from_y * width + from_x, 1) : pads(1));
          const int32_t label = 3 * region(y, h) + region(x, v);
          c.groups.query_labels.push_back(label);
          c.groups.key_labels.push_back(label);
        }
      }
      add_group(c.groups, runs, runs);
    }
  }
  c.groups.only_rule().region_penalty = -100;
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

TEST(GroupedAttention, GlobalOfOddSizes) {
  for (const int64_t n : {1, 2, 3, 31, 49, 197}) verify(global(n, n, 32));
  for (const int64_t d : {1, 24, 80, 256}) verify(global(31, 50, d));
}

// Tiles of all shapes: rows and keys that leave a rest, channels in one piece and in several.
TEST(GroupedAttention, TilesOfManyShapes) {
  for (const int64_t d : {4, 20, 48, 64, 112, 128})
    for (const int64_t n : {5, 16, 49, 110}) {
      Case c = global(n, n + 1, d);
      c.bias = n < 100;
      verify(c);
    }
}

TEST(GroupedAttention, ManyKeyBlocksStream) {
  for (const double sharpness : {1.0, 30.0}) {  // 30: reference points of rows must move from block to block
    Case c = global(70, 1100, 16);
    c.sharpness = sharpness;
    verify(c);
  }
}

TEST(GroupedAttention, OneLargeGroupIsCutBetweenThreads) {
  Case c = global(600, 600, 24);
  c.batch = c.heads = 1;
  c.head_scale = c.bias = true;
  verify(c, false);
  c.groups.only_rule().causal = true;
  c.name += ", causal";
  verify(c, false);
}

// Few keys: the queries are cut into parts with gradients of their own for the keys, each done in stretches.
TEST(GroupedAttention, ManyQueriesMeetFewKeys) {
  Case c = global(5000, 37, 16);
  c.batch = 1;
  c.padding = c.head_scale = true;
  verify(c);
  c = global(2100, 200, 8);  // several key blocks
  c.heads = 3;
  verify(c);
  c = global(4200, 5, 8);
  c.pad_rows = true;
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 4000)}, {tokens(0, 2), {.count = 3, .source = RowSource::kPad}, tokens(2, 1)});
  add_group(c.groups, {tokens(4000, 200)}, {tokens(3, 2)});  // too few queries for the parts
  c.groups.keys_disjoint = true;
  c.groups.finish();
  verify(c);
}

// More queries than a stretch holds against keys that are no few, with rules by position.
TEST(GroupedAttention, ManyQueriesAndKeys) {
  Case c = global(2200, 900, 8);
  c.batch = c.heads = 1;
  verify(c, false);
  c.groups.only_rule().band = 70;
  c.name += ", band";
  verify(c, false);
}

TEST(GroupedAttention, NothingToDo) {
  Case c = global(5, 7, 8);
  c.batch = 0;
  verify(c);
  verify(global(0, 7, 8));
  verify(global(5, 0, 8));
  c = global(9, 9, 8);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 4)}, {});
  add_group(c.groups, {}, {tokens(0, 4)});
  add_group(c.groups, {tokens(4, 2)}, {tokens(4, 4)});  // rows 6.. belong to no group
  c.groups.finish();
  verify(c);
}

TEST(GroupedAttention, WindowsWithBiasAndLabels) {
  for (const int32_t shift : {0, 2}) {
    Case c = windows(8, 12, 4, shift);
    c.bias = true;
    verify(c);
  }
  Case c = windows(14, 14, 7, 3);
  c.bias = true;
  c.heads = 3;
  verify(c);
  c.groups.only_rule().region_penalty = -static_cast<float>(kInf);
  c.name += ", forbidden";
  verify(c);
}

TEST(GroupedAttention, PaddedWindows) {
  for (const bool given : {false, true}) {
    Case c = windows(9, 10, 4, 1);
    c.bias = true;
    c.pad_rows = given;
    verify(c);
  }
}

TEST(GroupedAttention, CausalWithShift) {
  for (const int32_t shift : {0, 19, -3}) {
    Case c = global(300, 320, 16);
    c.groups.only_rule().causal = true;
    c.groups.only_rule().query_position_shift = shift;
    c.name += fmt::format(", causal {}", shift);
    verify(c);
  }
}

TEST(GroupedAttention, BandAndDilation) {
  for (const int32_t dilation : {1, 3}) {
    for (const int32_t band : {0, 5, 40}) {
      for (const bool causal : {false, true}) {
        Case c = global(330, 330, 8);
        c.groups.only_rule().band = band;
        c.groups.only_rule().dilation = dilation;
        c.groups.only_rule().causal = causal;
        c.name += fmt::format(", band {} x {} {}", band, dilation, causal);
        verify(c);
      }
    }
  }
}

TEST(GroupedAttention, DilationCountsFromShiftedPositions) {
  for (const int32_t shift : {-7, 5}) {  // -7: positions before the first key
    Case c = global(60, 60, 8);
    c.groups.only_rule().band = 4;
    c.groups.only_rule().dilation = 3;
    c.groups.only_rule().query_position_shift = shift;
    c.name += fmt::format(", shift {}", shift);
    verify(c);
  }
}

TEST(GroupedAttention, SelfPenaltyAndPadding) {
  Case c = global(49, 49, 32);
  c.groups.only_rule().self_penalty = -5e4f;
  verify(c);
  c.groups.only_rule().self_penalty = 2;
  c.padding = true;
  verify(c);
  c.bias = true;
  verify(c);
}

TEST(GroupedAttention, AdditiveMask) {
  for (const bool rows_out : {false, true}) {
    Case c = global(35, 50, 24);
    c.mask = true;
    c.mask_rows_out = rows_out;
    c.head_scale = true;
    verify(c);
    c.groups.runs[1] = tokens(49, 50, -1);  // mask columns out of order
    verify(c);
  }
}

TEST(GroupedAttention, BiasTooLargeToLayOut) {
  Case c = global(1450, 1450, 4);
  c.batch = 1;
  c.bias = true;
  verify(c, false);
}

TEST(GroupedAttention, GroupsOfDifferentLengthsShareABias) {
  Case c = global(60, 60, 16);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 20)}, {tokens(0, 20)});
  add_group(c.groups, {tokens(20, 7)}, {tokens(20, 33)});
  add_group(c.groups, {tokens(27, 33)}, {tokens(53, 7)});
  c.groups.keys_disjoint = true;
  c.groups.finish();
  c.bias = c.padding = true;
  verify(c);
}

TEST(GroupedAttention, RangesPerHeadAndBatch) {
  Case c = global(40, 40, 16);
  c.heads = 2;
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 20, 2)}, {tokens(0, 20, 2)});
  add_group(c.groups, {tokens(1, 20, 2)}, {tokens(1, 20, 2)});
  add_group(c.groups, {tokens(0, 40)}, {tokens(0, 13), tokens(20, 9)});
  add_group(c.groups, {tokens(30, 5)}, {tokens(0, 40)});
  c.groups.ranges = {{0, 2}, {2, 3}, {3, 4}, {0, 0}};
  c.groups.batches = 2;
  c.groups.heads = 2;
  c.groups.keys_disjoint = true;
  c.groups.finish();
  verify(c);
}

TEST(GroupedAttention, MemoryRowsAreNeverExcludedByARule) {
  for (const bool shared : {false, true}) {
    Case c = global(40, 40, 24);
    c.memory = 11;
    c.shared_memory = shared;
    c.batch = 5;  // their order shows in the sums of shared rows
    c.groups = TokenGroups();
    c.groups.only_rule().causal = true;
    c.groups.only_rule().band = 6;
    add_group(c.groups, {tokens(0, 18)}, {memory_rows(2, 9), tokens(0, 18)});
    add_group(c.groups, {tokens(18, 22)}, {memory_rows(0, 4), tokens(18, 22), memory_rows(7, 2)});
    c.groups.keys_disjoint = true;
    c.groups.finish();
    c.head_scale = true;
    verify(c);
  }
}

TEST(GroupedAttention, OneKeyHeadForAllHeads) {
  Case c = global(33, 20, 16);
  c.heads = 3;
  c.shared_kv_head = true;
  verify(c);
}

TEST(GroupedAttention, OverlappingGroups) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kMergeLse}) {
    Case c = global(150, 150, 24);
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    c.groups.mean_epsilon = 1e-2;
    add_group(c.groups, {tokens(0, 100)}, {tokens(0, 60)});
    add_group(c.groups, {tokens(40, 100), pads(3)}, {tokens(60, 40), pads(2)});
    add_group(c.groups, {tokens(10, 20, 3)}, {tokens(100, 40)});  // rows 140.. belong to no group
    c.groups.finish();
    verify(c);
    c.mask = c.mask_rows_out = true;
    c.bias = true;
    verify(c);
  }
}

// Keys in several blocks: what belongs to a whole row has to be collected over them.
TEST(GroupedAttention, LongOverlappingGroups) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kMergeLse}) {
    Case c = global(310, 310, 32);
    c.batch = 2;
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    add_group(c.groups, {tokens(0, 130)}, {tokens(0, 300)});
    add_group(c.groups, {tokens(100, 150)}, {tokens(10, 150), tokens(200, 110)});  // rows 250.. belong to no group
    c.groups.finish();
    verify(c);
  }
}

// Each group with a rule of its own, or none; prefix rows in free runs; a map whose prefix is no cell of it.
TEST(GroupedAttention, RulesPerGroupAndFreeRuns) {
  Case c = global(300, 300, 16);
  c.groups = TokenGroups();
  c.groups.rules.resize(2);
  c.groups.rules[0].causal = true;
  c.groups.rules[1].band = 3;
  c.groups.rules[1].dilation = 2;
  c.groups.rules[1].self_penalty = -0.5f;
  add_group(c.groups, {tokens(100, 120)}, {free_tokens(290, 7), tokens(0, 250), free_tokens(3, 4)}, 0);
  add_group(c.groups, {tokens(0, 100)}, {tokens(20, 200), free_tokens(0, 5, 2)}, 1);
  add_group(c.groups, {tokens(220, 60)}, {tokens(150, 150)}, -1);
  c.groups.finish();
  verify(c);
  c.padding = c.mask = true;
  verify(c);
}

TEST(GroupedAttention, BandsOnMaps) {
  for (const int32_t width : {1, 7, 19}) {
    for (const int32_t dilation : {1, 2}) {
      for (const int32_t band : {0, 1, 4}) {
        const int32_t height = 18, prefix = 3, n = prefix + height * width;
        Case c = global(n, n, 8);
        c.name += fmt::format(", map {} x {}, band {} x {}", height, width, band, dilation);
        c.groups = TokenGroups();
        PairRule& rule = c.groups.only_rule();
        rule.band = band;
        rule.dilation = dilation;
        rule.map_width = width;
        rule.first_row = prefix;
        add_group(c.groups, {tokens(0, prefix)}, {tokens(0, n)}, -1);
        add_group(c.groups, {tokens(prefix, n - prefix)}, {tokens(prefix, n - prefix), free_tokens(0, prefix)});
        c.groups.finish();
        verify(c, width == 7);
      }
    }
  }
}

TEST(GroupedAttention, AWildcardLabelDiffersFromNone) {
  Case c = windows(10, 10, 5, 2);
  for (size_t i = 0; i < c.groups.query_labels.size(); i += 7) c.groups.query_labels[i] = -1;
  for (size_t i = 3; i < c.groups.key_labels.size(); i += 5) c.groups.key_labels[i] = -1;
  c.groups.finish();
  c.bias = true;
  verify(c);
  std::fill(c.groups.query_labels.begin(), c.groups.query_labels.end(), -1);
  c.groups.finish();
  for (const TokenGroups::Group& g : c.groups.groups) EXPECT_FALSE(g.mixed_labels);
  verify(c);
}

// Several bias tables; groups without one do not count for their sizes.
TEST(GroupedAttention, ABiasForSomeGroups) {
  Case c = global(160, 160, 16);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 9)}, {tokens(0, 160)}, 0, -1);
  add_group(c.groups, {tokens(9, 20)}, {tokens(9, 33)}, 0, 0);
  add_group(c.groups, {tokens(29, 20)}, {tokens(0, 17)}, 0, 1);
  add_group(c.groups, {tokens(49, 31)}, {tokens(29, 12)}, 0, 0);
  add_group(c.groups, {tokens(80, 7)}, {tokens(100, 60)}, 0, 1);
  c.groups.finish();
  ASSERT_EQ(c.groups.biases.size(), 2u);
  EXPECT_EQ(c.groups.biases[1].offset, 31 * 33);
  EXPECT_EQ(c.groups.bias_elements(), 31 * 33 + 20 * 60);
  c.bias = c.padding = true;
  verify(c);
  c.batch = 20;  // more units than chunks
  verify(c, false);
}

// Every kind of term as an exclusion, in a group that also has free keys, pads and memory.
TEST(GroupedAttention, ExcludedPairsHaveNoScore) {
  const int32_t n = 150;
  std::vector<int32_t> blocks, residues;
  for (int32_t i = 0; i < n; ++i) {
    blocks.push_back(i % 11 == 4 ? -1 : i / 16);
    residues.push_back(i % 5 == 2 ? 0 : -1);
  }
  const std::vector<PairTerm> terms = {
      PairTerm::partition(blocks),
      PairTerm::labels(blocks, blocks, -1, 2),
      PairTerm::labels(blocks, residues, -3, 0),
      PairTerm::band_of(9, 1),
      PairTerm::band_of(6, 3),
      PairTerm::band_on_map(2, 1, 13, 7),
      PairTerm::band_on_map(1, 2, 12, 6),
      PairTerm::keys(residues),
      PairTerm::queries(residues),
      PairTerm::all(true),
      PairTerm::partition(blocks, true),
      PairTerm::band_of(20, 1, true),
      PairTerm::keys(residues, true),
      PairTerm::queries(residues, true),
      PairTerm::all(),
  };
  for (size_t t = 0; t < terms.size(); ++t) {
    Case c = global(n, n, 8);
    c.name = fmt::format("term {}", t);
    c.memory = 4;
    c.groups = TokenGroups();
    c.groups.terms = {terms[t], terms[(t + 3) % terms.size()]};
    PairRule& rule = c.groups.only_rule();
    rule.exclusions = {{0, true}};
    if (t % 2 == 1) rule.exclusions.push_back({1, false});
    if (t % 3 == 1) rule.causal = true;
    if (t % 3 == 2) rule.band = 30;
    add_group(c.groups, {tokens(0, n)}, {tokens(0, 140), memory_rows(1, 3), free_tokens(140, 10), pads(2)});
    c.groups.finish();
    c.bias = t % 4 == 0;
    verify(c, t % 4 == 3);
  }
}

// Parts that exclude what earlier ones have are one softmax over the union.
TEST(GroupedAttention, AUnionCountsNoPairTwice) {
  const int32_t n = 90;
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < n; ++i) blocks.push_back(i / 20);
  std::vector<int32_t> strided(static_cast<size_t>(n), -1);
  for (int32_t i = 0; i < n; i += 7) strided[static_cast<size_t>(i)] = 0;
  Case c = global(n, n, 16);
  c.groups = TokenGroups();
  TokenGroups& g = c.groups;
  g.terms = {PairTerm::partition(blocks), PairTerm::band_of(8, 1), PairTerm::keys(strided)};
  g.rules.resize(3);
  g.rules[1].band = 8;
  g.rules[1].exclusions = {{0, true}};
  g.rules[2].exclusions = {{0, true}, {1, true}};
  g.reduction = Reduction::kMergeLse;
  for (int32_t at = 0; at < n; at += 20)
    add_group(g, {tokens(at, std::min(20, n - at))}, {tokens(at, std::min(20, n - at))}, 0, 0);
  add_group(g, {tokens(0, n)}, {tokens(0, n)}, 1, -1);
  add_group(g, {tokens(0, n)}, {tokens(0, 13, 7)}, 2, 1);
  g.finish();
  verify(c);
  c.bias = true;
  verify(c);
  // Without a bias it is one group with a mask.
  c.bias = false;
  Case dense = global(n, n, 16);
  dense.mask = true;
  Inputs a(c), b(dense);
  PairPattern pattern{g.terms};
  for (int64_t i = 0; i < static_cast<int64_t>(b.mask.size()); ++i) {
    const int64_t q = i / b.mask_row % n, k = i % b.mask_row;
    b.mask[static_cast<size_t>(i)] = k < n && pattern.contains(q, k) ? 0 : -static_cast<float>(kInf);
  }
  for (const NamedTable& t : tables()) {
    SCOPED_TRACE(t.name);
    Outputs x(c, a), y(dense, b);
    run(c, a, x, t.table, 1);
    run(dense, b, y, t.table, 1);
    const auto expect_close = [](const Rows& p, const Rows& q, const char* what) {
      p.for_each([&](int64_t i) { EXPECT_NEAR(p.data[static_cast<size_t>(i)], q.data[static_cast<size_t>(i)], 1e-5) << what; });
    };
    expect_close(x.out, y.out, "out");
    expect_close(x.dq, y.dq, "dq");
    expect_close(x.dk, y.dk, "dk");
    expect_close(x.dv, y.dv, "dv");
  }
}

TEST(GroupedAttention, ExtremeScoresStayFinite) {
  for (const double sharpness : {200.0, 2000.0}) {
    Case c = global(37, 300, 8);
    c.sharpness = sharpness;
    verify(c);
  }
}

TEST(GroupedAttention, NotANumberIsNotHidden) {
  for (const NamedTable& t : tables()) {
    SCOPED_TRACE(t.name);
    const Case c = global(20, 40, 16);
    Inputs in(c);
    in.k.data[static_cast<size_t>(in.k.at(0, 0, 35, 3))] = std::numeric_limits<float>::quiet_NaN();
    Outputs o(c, in);
    run(c, in, o, t.table, 1);
    for (int64_t n = 0; n < c.queries; ++n)
      EXPECT_TRUE(std::isnan(o.out.data[static_cast<size_t>(o.out.at(0, 0, n, 7))])) << "row " << n;
    EXPECT_FALSE(std::isnan(o.out.data[static_cast<size_t>(o.out.at(1, 0, 0, 7))]));
  }
}

}  // namespace
}  // namespace fovea
