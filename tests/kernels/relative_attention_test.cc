// The relative term of grouped attention: against additive scores written out pair by pair, by its gradients on dual
// numbers, and every f32 table against the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "harness/expect.h"
#include "kernels/attention_sizes.h"
#include "kernels/kernel_table.h"

namespace fovea {
namespace {

using harness::expect_close;
using harness::HostTensor;
using harness::layer_of;
using harness::Operation;
using harness::OracleOptions;
using harness::random_tensor;
using harness::Tolerance;

struct Case {
  TokenGroups groups;
  int64_t batch = 2, heads = 2, head_dim = 3, queries = 0, keys = 0, memory = 0;
  RelativeTerm term;  // its sizes; the pointers are filled per run
  bool u = true, v = true, bias = false;
  std::vector<uint8_t> key_padding = {};  // (batch, keys)
};

// Inputs in order: q, k, v, [memory k, v], x rows, [y rows], [u], [v], [x bias].
struct Bound {
  GroupedAttentionArgs args;
  RelativeTerm term;
  size_t next = 0;
};

void bind_case(const Case& c, std::span<const ConstTensor> in, std::span<const Tensor> out, Bound& b) {
  GroupedAttentionArgs& a = b.args;
  set_sizes(c, a);
  const int64_t row = c.heads * c.head_dim;
  const auto rows = [&](int64_t count) { return ConstHeadsView(in[b.next++].data, count * row, row, c.head_dim); };
  a.q = rows(c.queries);
  a.k = rows(c.keys);
  a.v = rows(c.keys);
  if (c.memory > 0) {
    a.memory_k = rows(c.memory);
    a.memory_v = rows(c.memory);
  }
  b.term = c.term;
  b.term.x.rows = in[b.next++].data;
  if (c.term.is_map()) b.term.y.rows = in[b.next++].data;
  if (c.u) b.term.u = in[b.next++].data;
  if (c.v) b.term.v = in[b.next++].data;
  if (c.bias) b.term.x.bias = in[b.next++].data;
  a.relative = &b.term;
  if (!c.key_padding.empty()) a.key_padding = c.key_padding.data();
  a.out.data = out[0].data;
  a.out.batch_stride = c.queries * row;
  a.out.token_stride = row;
  a.out.head_stride = c.head_dim;
  a.lse = out[1].data;
}

Operation operation(const Case& c) {
  Operation o;
  const Shape keys{c.batch, c.keys, c.heads, c.head_dim}, memory{c.batch, c.memory, c.heads, c.head_dim};
  o.inputs = {{Shape{c.batch, c.queries, c.heads, c.head_dim}}, {keys}, {keys}};
  if (c.memory > 0) o.inputs.insert(o.inputs.end(), {{memory}, {memory}});
  o.inputs.push_back({Shape{c.term.x.count, c.heads, c.head_dim}});
  if (c.term.is_map()) o.inputs.push_back({Shape{c.term.y.count, c.heads, c.head_dim}});
  if (c.u) o.inputs.push_back({Shape{c.heads, c.head_dim}});
  if (c.v) o.inputs.push_back({Shape{c.heads, c.head_dim}});
  if (c.bias) o.inputs.push_back({Shape{c.term.x.count, c.heads}});
  o.outputs = {{Shape{c.batch, c.queries, c.heads, c.head_dim}}, {Shape{c.batch, c.heads, c.groups.query_slots}, false}};
  const auto shared = std::make_shared<const Case>(c);
  o.forward = [shared](auto in, auto out, Context& ctx) {
    Bound b;
    bind_case(*shared, in, out, b);
    ctx.kernels().grouped_attention(b.args, ctx);
  };
  o.backward = [shared](auto in, auto out, auto dout, auto din, Context& ctx) {
    const std::vector<Tensor> outputs = {Tensor(const_cast<void*>(out[0].data), out[0].shape, out[0].dtype),   // NOLINT
                                         Tensor(const_cast<void*>(out[1].data), out[1].shape, out[1].dtype)};  // NOLINT
    Bound bound;
    bind_case(*shared, in, outputs, bound);
    GroupedAttentionBackwardArgs b;
    b.forward = bound.args;
    const GroupedAttentionArgs& f = b.forward;
    const auto like = [](const ConstHeadsView& v, const Tensor& t) {
      return HeadsView{t.data, v.batch_stride, v.token_stride, v.head_stride};
    };
    b.dout = ConstHeadsView(dout[0].data, f.out.batch_stride, f.out.token_stride, f.out.head_stride);
    b.dq = like(f.q, din[0]);
    b.dk = like(f.k, din[1]);
    b.dv = like(f.v, din[2]);
    size_t next = 3;
    if (shared->memory > 0) {
      b.dmemory_k = like(f.memory_k, din[next++]);
      b.dmemory_v = like(f.memory_v, din[next++]);
    }
    const auto zeroed = [&] {
      din[next].zero();
      return din[next++].data;
    };
    b.relative.dx_rows = zeroed();
    if (shared->term.is_map()) b.relative.dy_rows = zeroed();
    if (shared->u) b.relative.du = zeroed();
    if (shared->v) b.relative.dv = zeroed();
    if (shared->bias) b.relative.dx_bias = zeroed();
    ctx.kernels().grouped_attention_backward(b, ctx);
  };
  return o;
}

void check_tables(const Case& c, const OracleOptions& options = {}) {
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_like_reference(layer_of(operation(c)), *table, {}, options);
    harness::expect_same_for_any_threads(layer_of(operation(c)), *table, options);
  }
}

void check(const Case& c, const OracleOptions& options = {}) {
  harness::expect_adjoint(layer_of(operation(c)), options);
  check_tables(c, options);
}

Run tokens(int64_t begin, int64_t count, int64_t stride = 1) {
  return {static_cast<int32_t>(begin), static_cast<int32_t>(stride), static_cast<int32_t>(count), RowSource::kToken};
}
Run memory_rows(int64_t count) { return {0, 1, static_cast<int32_t>(count), RowSource::kMemory}; }

void add_group(TokenGroups& g, const std::vector<Run>& queries, const std::vector<Run>& keys) {
  g.begin_group();
  for (const Run& r : queries) g.add_query_run(r);
  for (const Run& r : keys) g.add_key_run(r);
  g.end_group();
}

// A causal sequence after `memory` rows, distances below `reach`.
Case line(int64_t tokens_count, int64_t memory, int64_t reach, int64_t head_dim = 3) {
  Case c;
  c.queries = c.keys = tokens_count;
  c.memory = memory;
  c.head_dim = head_dim;
  c.term.memory_rows = memory;
  c.term.x.count = reach;
  add_group(c.groups, {tokens(0, tokens_count)}, {memory_rows(memory), tokens(0, tokens_count)});
  c.groups.only_rule().causal = true;
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

Case map(int64_t height, int64_t width, int64_t prefix, int64_t head_dim = 3) {
  Case c;
  c.queries = c.keys = prefix + height * width;
  c.head_dim = head_dim;
  c.term.map_width = width;
  c.term.first_row = prefix;
  c.term.x.first = 1 - width;
  c.term.x.count = 2 * width - 1;
  c.term.y.first = 1 - height;
  c.term.y.count = 2 * height - 1;
  add_group(c.groups, {tokens(0, c.queries)}, {tokens(0, c.keys)});
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

TEST(RelativeAttention, ALineWithMemory) {
  check(line(5, 0, 5));
  check(line(4, 6, 10));
  check(line(1, 3, 4));
  Case c = line(7, 5, 12, 5);
  c.bias = true;
  c.v = false;
  check(c);
  c.u = false;
  check(c);
}

TEST(RelativeAttention, DistancesWithoutARowDoNotMeet) {
  check(line(6, 5, 4));
  check(line(9, 0, 3));
  Case c = line(6, 4, 10);  // tables alone forbid the future
  c.groups.only_rule().causal = false;
  check(c);
  c.term.x.first = -2;  // two keys ahead
  check(c);
  c.term.query_shift = 1;
  check(c);
}

TEST(RelativeAttention, LinesOfManyBlocks) {
  check_tables(line(300, 77, 377, 8));
  check_tables(line(270, 140, 410, 20));
  check_tables(line(300, 0, 90, 17));
  Case c = line(270, 300, 40, 8);
  c.bias = true;
  check_tables(c);
}

TEST(RelativeAttention, SlotsInAnyOrder) {
  Case c = line(40, 9, 49);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 20, 2), {0, 1, 3, RowSource::kPad}}, {tokens(39, 20, -2), memory_rows(9), {0, 1, 2, RowSource::kPad}});
  add_group(c.groups, {tokens(39, 20, -2)}, {tokens(0, 20, 2), memory_rows(4)});
  c.groups.finish();
  check(c);
  Case far = line(700, 0, 700, 4);
  far.groups = TokenGroups();
  add_group(far.groups, {tokens(0, 7, 100), tokens(1, 7, 100)}, {tokens(0, 350, 2)});
  far.groups.only_rule().causal = true;
  far.groups.finish();
  check(far);
}

TEST(RelativeAttention, Maps) {
  check(map(3, 4, 0));
  check(map(4, 3, 2));
  OracleOptions one_row;  // every pair has the same dy: whole rows of scores shift
  one_row.zero_gradients = {"input 4"};
  check(map(1, 6, 0), one_row);
  check(map(6, 1, 1));
  Case c = map(3, 5, 1);
  c.key_padding.assign(static_cast<size_t>(c.batch * c.keys), 0);
  c.key_padding[3] = c.key_padding[20] = 1;
  check(c);
}

TEST(RelativeAttention, MapsOfManyBlocks) {
  check_tables(map(14, 15, 0, 8));
  check_tables(map(9, 33, 3, 20));
  check_tables(map(2, 150, 1, 4));
  check_tables(map(150, 2, 0, 4));
}

TEST(RelativeAttention, WindowsOfAMap) {
  Case c = map(8, 6, 0);
  c.groups = TokenGroups();
  for (int64_t y = 0; y < 8; y += 4)
    for (int64_t x = 0; x < 6; x += 3) {
      std::vector<fovea::Run> rows;
      for (int64_t i = 0; i < 4; ++i) rows.push_back(tokens((y + i) * 6 + x, 3));
      add_group(c.groups, rows, rows);
    }
  c.groups.keys_disjoint = true;
  c.groups.finish();
  check(c);
}

TEST(RelativeAttention, MeansAndMergesOfSlots) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kMergeLse}) {
    Case c = map(5, 6, 1);
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    add_group(c.groups, {tokens(0, 20)}, {tokens(0, 9)});
    add_group(c.groups, {tokens(4, 26)}, {tokens(9, 22)});
    c.groups.finish();
    check(c);
  }
}

// What the official shift gives to keys behind their query.
TEST(RelativeAttention, TheWrappedShiftOfAnUnmaskedLine) {
  Case c = line(4, 3, 7);
  c.groups.only_rule().causal = false;
  c.term.wrapped = true;
  harness::expect_adjoint(layer_of(operation(c)));
}

// (q + v) · R as an additive mask, pair by pair, gives the same as the term; u as a shift of q.
TEST(RelativeAttention, EqualsScoresWrittenOut) {
  for (const Case& c : {line(9, 0, 9), map(3, 4, 2)}) {
    const harness::LayerRun run = harness::run_layer(layer_of(operation(c)), kernel_table("reference"), 1);
    ASSERT_TRUE(run.problems.empty());
    const auto at = [&](size_t input, int64_t i) { return harness::value_at(run.inputs[input], i); };
    const size_t x = 3, y = 4, u = c.term.is_map() ? 5 : 4, v = u + 1;
    const int64_t hd = c.heads * c.head_dim, n = c.queries;
    HostTensor q = harness::copy_of(run.inputs[0]), mask(Shape{c.batch, c.heads, n, n}, DType::kF64);
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t j = 0; j < n; ++j) {
            double s = 0;
            for (int64_t d = 0; d < c.head_dim; ++d) {
              const double qv = at(0, (b * n + i) * hd + h * c.head_dim + d) + at(v, h * c.head_dim + d);
              const auto row = [&](size_t table, int64_t r) { return at(table, r * hd + h * c.head_dim + d); };
              if (!c.term.is_map()) {
                if (j <= i) s += qv * row(x, i - j);
                continue;
              }
              if (i < 2 || j < 2) continue;
              const int64_t a = i - 2, k = j - 2;
              s += qv * (row(x, a % 4 - k % 4 + 3) + row(y, a / 4 - k / 4 + 2));
            }
            mask.as<double>()[((b * c.heads + h) * n + i) * n + j] = s / std::sqrt(static_cast<double>(c.head_dim));
          }
    for (int64_t i = 0; i < q.elements(); ++i) q.as<double>()[i] += at(u, i % hd);
    HostTensor out(run.outputs[0].shape, DType::kF64);
    Context ctx(kernel_table("reference"), DType::kF64, 1);
    std::vector<ConstTensor> in;
    for (const HostTensor& t : run.inputs) in.push_back(t);
    in[0] = q;
    Bound bound;
    bind_case(c, in, std::vector<Tensor>{out, harness::copy_of(run.outputs[1])}, bound);
    bound.args.relative = nullptr;
    bound.args.lse = nullptr;
    bound.args.mask = mask.data;
    bound.args.mask_row_stride = n;
    bound.args.mask_head_stride = n * n;
    bound.args.mask_batch_stride = c.heads * n * n;
    ctx.kernels().grouped_attention(bound.args, ctx);
    expect_close(out, run.outputs[0], Tolerance::relative(1e-13), "out");
  }
}

}  // namespace
}  // namespace fovea
