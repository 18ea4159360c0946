// The reference's grouped attention: by hand, by what must be equal, by its gradients on dual numbers, and against every
// f32 table.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "harness/expect.h"
#include "kernels/attention_sizes.h"
#include "kernels/kernel_table.h"

namespace fovea {
namespace {

using harness::expect_adjoint;
using harness::expect_close;
using harness::HostTensor;
using harness::layer_of;
using harness::OracleOptions;
using harness::Operation;
using harness::random_tensor;
using harness::tensor_of;
using harness::Tolerance;

constexpr DType kF64 = DType::kF64;
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
  TokenGroups groups;
  int64_t batch = 2, heads = 2, head_dim = 3, queries = 6, keys = 6, memory = 0;
  bool pads = false, bias = false, head_scale = false;
  std::function<double(int64_t query, int64_t key)> mask = nullptr;
  std::vector<uint8_t> key_padding;  // (batch, keys)
};

GroupedAttentionArgs arguments(const Case& c, std::span<const ConstTensor> in, std::span<const Tensor> out) {
  GroupedAttentionArgs a;
  set_sizes(c, a);
  const int64_t row = c.heads * c.head_dim;
  size_t next = 0;
  const auto rows = [&](int64_t count) { return ConstHeadsView(in[next++].data, count * row, row, c.head_dim); };
  a.q = rows(c.queries);
  a.k = rows(c.keys);
  a.v = rows(c.keys);
  if (c.memory > 0) {
    a.memory_k = rows(c.memory);
    a.memory_v = rows(c.memory);
  }
  if (c.pads) {
    a.pad_k = in[next++].data;
    a.pad_v = in[next++].data;
  }
  if (c.bias) a.bias = in[next++].data;
  if (c.head_scale) a.head_scale = in[next++].data;
  if (c.mask) {
    a.mask = in[next++].data;
    a.mask_row_stride = c.keys;
  }
  if (!c.key_padding.empty()) a.key_padding = c.key_padding.data();
  a.out.data = out[0].data;
  a.out.batch_stride = c.queries * row;
  a.out.token_stride = row;
  a.out.head_stride = c.head_dim;
  a.lse = out[1].data;
  return a;
}

Operation operation(const Case& c) {
  Operation o;
  const Shape keys{c.batch, c.keys, c.heads, c.head_dim}, memory{c.batch, c.memory, c.heads, c.head_dim};
  o.inputs = {{Shape{c.batch, c.queries, c.heads, c.head_dim}}, {keys}, {keys}};
  if (c.memory > 0) o.inputs.insert(o.inputs.end(), {{memory}, {memory}});
  if (c.pads) o.inputs.insert(o.inputs.end(), {{Shape{c.heads, c.head_dim}}, {Shape{c.heads, c.head_dim}}});
  if (c.bias) o.inputs.push_back({Shape{c.heads * c.groups.bias_elements()}});
  if (c.head_scale) o.inputs.push_back({Shape{c.heads}});
  if (c.mask) {
    const auto make = [=](const Rng&, DType dtype) {
      HostTensor wide({c.queries, c.keys}, kF64);
      for (int64_t i = 0; i < c.queries; ++i)
        for (int64_t j = 0; j < c.keys; ++j) wide.as<double>()[i * c.keys + j] = c.mask(i, j);
      return harness::converted(wide, dtype);
    };
    o.inputs.push_back({Shape{c.queries, c.keys}, false, make});
  }
  o.outputs = {{Shape{c.batch, c.queries, c.heads, c.head_dim}}, {Shape{c.batch, c.heads, c.groups.query_slots}, false}};
  const auto shared = std::make_shared<const Case>(c);
  o.forward = [shared](auto in, auto out, Context& ctx) {
    ctx.kernels().grouped_attention(arguments(*shared, in, out), ctx);
  };
  o.backward = [shared](auto in, auto out, auto dout, auto din, Context& ctx) {
    const std::vector<Tensor> outputs = {Tensor(const_cast<void*>(out[0].data), out[0].shape, out[0].dtype),   // NOLINT
                                         Tensor(const_cast<void*>(out[1].data), out[1].shape, out[1].dtype)};  // NOLINT
    GroupedAttentionBackwardArgs b;
    b.forward = arguments(*shared, in, outputs);
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
    if (shared->pads) {
      b.dpad_k = zeroed();
      b.dpad_v = zeroed();
    }
    if (shared->bias) b.dbias = zeroed();
    if (shared->head_scale) b.dhead_scale = zeroed();
    ctx.kernels().grouped_attention_backward(b, ctx);
  };
  return o;
}

void check(const Case& c, const OracleOptions& options = {}) {
  expect_adjoint(layer_of(operation(c)), options);
  for (const KernelTable* table : harness::f32_tables()) {
    harness::expect_like_reference(layer_of(operation(c)), *table, {}, options);
    harness::expect_same_for_any_threads(layer_of(operation(c)), *table, options);
  }
}

struct Results {
  HostTensor out, lse;
};

// The outputs on the reference with the inputs that every run of the oracle draws.
Results results_of(const Case& c) {
  harness::LayerRun run = harness::run_layer(layer_of(operation(c)), kernel_table("reference"), 1);
  EXPECT_TRUE(run.problems.empty());
  return {std::move(run.outputs[0]), std::move(run.outputs[1])};
}

TokenGroups one_group(int32_t queries, int32_t keys) {
  TokenGroups g;
  g.begin_group();
  g.add_query_run({0, 1, queries});
  g.add_key_run({0, 1, keys});
  g.end_group();
  g.finish();
  return g;
}

TEST(ReferenceAttention, ByHand) {
  Case c;
  c.groups = one_group(2, 2);
  c.batch = c.heads = 1;
  c.head_dim = 1;
  c.queries = c.keys = 2;
  // Scores (0, ln 3) and (0, -ln 3): weights (1/4, 3/4) and (3/4, 1/4).
  const HostTensor q = tensor_of({2}, kF64, {1, -1}), k = tensor_of({2}, kF64, {0, std::log(3.0)});
  const HostTensor v = tensor_of({2}, kF64, {4, 8}), dout = tensor_of({2}, kF64, {1, 0});
  const HostTensor out({2}, kF64), lse({2}, kF64);
  const std::vector<ConstTensor> in = {q, k, v};
  Context ctx(kernel_table("reference"), kF64, 1);
  const GroupedAttentionArgs a = arguments(c, in, std::vector<Tensor>{out, lse});
  ctx.kernels().grouped_attention(a, ctx);
  expect_close(out, tensor_of({2}, kF64, {7, 5}), Tolerance::absolute(1e-14), "out");
  expect_close(lse, tensor_of({2}, kF64, {std::log(4.0), std::log(4.0 / 3)}), Tolerance::absolute(1e-14), "lse");

  HostTensor dq({2}, kF64), dk({2}, kF64), dv({2}, kF64);
  GroupedAttentionBackwardArgs b;
  b.forward = a;
  b.dout = {dout.data, 2, 1, 1};
  b.dq = {dq.data, 2, 1, 1};
  b.dk = {dk.data, 2, 1, 1};
  b.dv = {dv.data, 2, 1, 1};
  ctx.kernels().grouped_attention_backward(b, ctx);
  // dS = P (v - out) = (-3/4, 3/4) in the first row and zero in the second.
  expect_close(dv, tensor_of({2}, kF64, {0.25, 0.75}), Tolerance::absolute(1e-14), "dv");
  expect_close(dk, tensor_of({2}, kF64, {-0.75, 0.75}), Tolerance::absolute(1e-14), "dk");
  expect_close(dq, tensor_of({2}, kF64, {0.75 * std::log(3.0), 0}), Tolerance::absolute(1e-14), "dq");
}

TEST(ReferenceAttention, AllPairs) {
  Case c;
  c.groups = one_group(6, 5);
  c.keys = 5;
  check(c);
  c.head_scale = c.bias = true;
  check(c);
}

// Windows of a map that was padded: strided runs, pad rows, labels that differ, a bias.
Case windows(float penalty) {
  Case c;
  c.queries = c.keys = 9;
  TokenGroups& g = c.groups;
  g.begin_group();
  for (const int32_t row : {0, 3}) g.add_query_run({row, 1, 2});
  for (const int32_t row : {0, 3}) g.add_key_run({row, 1, 2});
  g.end_group();
  g.begin_group();
  g.add_query_run({2, 3, 3});
  g.add_query_run({0, 1, 1, RowSource::kPad});
  g.add_key_run({2, 3, 3});
  g.add_key_run({0, 1, 1, RowSource::kPad});
  g.end_group();
  g.begin_group();
  g.add_query_run({7, -1, 2});
  g.add_key_run({7, -1, 2});
  g.add_key_run({0, 1, 2, RowSource::kPad});
  g.end_group();
  g.query_labels = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4};
  g.key_labels = {0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 4};
  g.only_rule().region_penalty = penalty;
  g.finish();
  c.bias = c.pads = true;
  return c;
}

TEST(ReferenceAttention, WindowsWithPadRowsAndLabels) {
  check(windows(-kInf));
  check(windows(-1.5f));
}

TEST(ReferenceAttention, ForbiddenRegionsAreNeverSeen) {
  // Under -infinity the first window falls into two of two tokens each.
  Case apart = windows(-kInf);
  apart.bias = apart.pads = false;
  Case together = apart;
  TokenGroups g;
  for (const int32_t row : {0, 3}) {
    g.begin_group();
    g.add_query_run({row, 1, 2});
    g.add_key_run({row, 1, 2});
    g.end_group();
  }
  g.finish();
  together.groups = g;
  const Results a = results_of(apart), b = results_of(together);
  const int64_t row = apart.heads * apart.head_dim;
  for (const int64_t n : {0, 1, 3, 4})
    for (int64_t i = n * row; i < (n + 1) * row; ++i) EXPECT_NEAR(a.out.as<double>()[i], b.out.as<double>()[i], 1e-14);
}

TEST(ReferenceAttention, PadRowsAreZerosByDefault) {
  // A pad key without a given row has score 0 and value 0: it takes its share and gives nothing.
  Case padded, plain;
  for (Case* c : {&padded, &plain}) {
    TokenGroups& g = c->groups;
    g.begin_group();
    g.add_query_run({0, 1, 6});
    g.add_key_run({0, 1, 6});
    if (c == &padded) g.add_key_run({0, 1, 3, RowSource::kPad});
    g.end_group();
    g.finish();
  }
  check(padded);
  const Results a = results_of(padded), b = results_of(plain);
  for (int64_t batch_head = 0; batch_head < 4; ++batch_head)
    for (int64_t n = 0; n < 6; ++n) {
      const double share = 1 / (1 + 3 * std::exp(-b.lse.as<double>()[batch_head * 6 + n]));
      const int64_t i = ((batch_head / 2 * 6 + n) * 2 + batch_head % 2) * 3;
      EXPECT_NEAR(a.out.as<double>()[i], share * b.out.as<double>()[i], 1e-13);
    }
}

TEST(ReferenceAttention, CausalBandAndSelfPenalty) {
  Case c;
  c.groups = one_group(6, 8);
  c.keys = 8;
  c.groups.only_rule().causal = true;
  c.groups.only_rule().query_position_shift = 2;
  check(c);
  c.groups.only_rule().causal = false;
  c.groups.only_rule().band = 1;
  c.groups.only_rule().dilation = 2;
  c.groups.only_rule().self_penalty = -0.5f;
  check(c);
}

TEST(ReferenceAttention, RulesSayTheSameAsAMask) {
  Case rule, mask;
  rule.groups = mask.groups = one_group(6, 6);
  PairRule& r = rule.groups.only_rule();
  r.causal = true;
  r.band = 2;
  r.dilation = 2;
  r.query_position_shift = 1;
  r.self_penalty = -0.75f;
  mask.mask = [](int64_t i, int64_t j) {
    const int64_t position = i + 1;
    const bool seen = position - j == 0 || position - j == 2 || position - j == 4;
    return !seen ? -HUGE_VAL : position == j ? -0.75 : 0.0;
  };
  check(mask);
  const Results a = results_of(rule), b = results_of(mask);
  expect_close(a.out, b.out, Tolerance::relative(1e-14), "out");
  expect_close(a.lse, b.lse, Tolerance::relative(1e-14), "lse");
}

TEST(ReferenceAttention, RowsWithoutKeysGiveZeros) {
  Case c;
  c.groups = one_group(6, 6);
  c.mask = [](int64_t i, int64_t) { return i == 2 ? -HUGE_VAL : 0.25; };
  check(c);
  const Results r = results_of(c);
  const Tensor row = r.out.reshaped(Shape{12, 6}).slice(2, 1);
  harness::expect_zero(row, 0, "the forbidden row");
  EXPECT_EQ(r.lse.as<double>()[2], -HUGE_VAL);
  EXPECT_TRUE(std::isfinite(r.lse.as<double>()[3]));
}

TEST(ReferenceAttention, KeyPaddingTakesKeysOut) {
  Case c;
  c.groups = one_group(6, 6);
  c.key_padding = {0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0};
  check(c);
}

TEST(ReferenceAttention, MemoryIsNeverExcludedByARule) {
  Case c;
  TokenGroups& g = c.groups;
  g.begin_group();
  g.add_query_run({0, 1, 6});
  g.add_key_run({3, 1, 2, RowSource::kMemory});
  g.add_key_run({0, 2, 2, RowSource::kMemory});
  g.add_key_run({0, 1, 6});
  g.end_group();
  g.only_rule().causal = true;
  g.only_rule().band = 0;
  g.finish();
  c.memory = 5;  // row 1 is in no group: its gradient is zero, and written
  check(c);
}

// Overlapping groups: rows 1 and 3 occur twice, row 5 nowhere.
TokenGroups overlapping(Reduction reduction) {
  TokenGroups g;
  g.begin_group();
  g.add_query_run({0, 1, 4});
  g.add_key_run({0, 2, 3});
  g.end_group();
  g.begin_group();
  g.add_query_run({3, -2, 2});
  g.add_query_run({4, 1, 1});
  g.add_key_run({1, 2, 3});
  g.end_group();
  g.reduction = reduction;
  g.mean_epsilon = 0.01;
  g.finish();
  return g;
}

TEST(ReferenceAttention, MeanOverTheSlotsOfARow) {
  Case c;
  c.groups = overlapping(Reduction::kMean);
  check(c);
  // Against the two groups run on their own.
  const Results mean = results_of(c);
  std::vector<Results> parts;
  for (size_t part = 0; part < 2; ++part) {
    Case one;
    one.groups = overlapping(Reduction::kAssign);
    one.groups.ranges = {{static_cast<int32_t>(part), static_cast<int32_t>(part) + 1}};
    parts.push_back(results_of(one));
  }
  const double slots[6] = {1, 2, 1, 2, 1, 0};
  for (int64_t i = 0; i < mean.out.elements(); ++i) {
    const double sum = parts[0].out.as<double>()[i] + parts[1].out.as<double>()[i];
    EXPECT_NEAR(mean.out.as<double>()[i], sum / (slots[i / 6 % 6] + 0.01), 1e-14);
  }
}

TEST(ReferenceAttention, MergedGroupsAreOneSoftmax) {
  Case merged, whole;
  merged.groups = overlapping(Reduction::kMergeLse);
  check(merged);
  // Rows 1 and 3 see all six keys, as in one group.
  whole.groups = one_group(6, 6);
  const Results a = results_of(merged), b = results_of(whole);
  for (int64_t i = 0; i < a.out.elements(); ++i)
    if (i / 6 % 6 == 1 || i / 6 % 6 == 3) {
      EXPECT_NEAR(a.out.as<double>()[i], b.out.as<double>()[i], 1e-14);
    }
}

// Rules per group, a free run, a band on a map after a prefix row, exclusions, and a union of the parts.
TEST(ReferenceAttention, AUnionOfPartsOnAMap) {
  Case c, dense;
  c.queries = c.keys = dense.queries = dense.keys = 7;  // a prefix row and a map of 2 x 3
  TokenGroups& g = c.groups;
  g.terms = {PairTerm::keys(first_rows(7, 1)), PairTerm::queries(first_rows(7, 1)), PairTerm::partition({-1, 0, 0, 1, 0, 0, 1}),
             PairTerm::band_on_map(1, 1, 3, 1)};
  g.rules.resize(2);
  g.rules[1].band = 1;
  g.rules[1].map_width = 3;
  g.rules[1].first_row = 1;
  g.rules[1].exclusions = {{0, true}, {1, true}, {2, true}};
  g.reduction = Reduction::kMergeLse;
  const auto add = [&](int32_t rule, int32_t bias, std::initializer_list<fovea::Run> queries, std::initializer_list<fovea::Run> keys) {
    g.begin_group(rule, bias);
    for (const auto& r : queries) g.add_query_run(r);
    for (const auto& r : keys) g.add_key_run(r);
    g.end_group();
  };
  fovea::Run prefix{0, 1, 1};
  prefix.free = true;
  add(-1, -1, {{0, 1, 1}}, {{0, 1, 7}});
  add(0, 0, {{1, 1, 2}, {4, 1, 2}}, {{1, 1, 2}, {4, 1, 2}, prefix});
  add(0, 0, {{3, 3, 2}}, {{3, 3, 2}, prefix});
  add(1, 1, {{1, 1, 6}}, {{1, 1, 6}, prefix});
  g.finish();
  const PairPattern pattern{g.terms};
  dense.groups = one_group(7, 7);
  dense.mask = [=](int64_t i, int64_t j) { return pattern.contains(i, j) ? 0.0 : -HUGE_VAL; };
  const Results a = results_of(c), b = results_of(dense);
  expect_close(a.out, b.out, Tolerance::relative(1e-14), "out");
  check(c);
  c.bias = true;
  check(c);
}

TEST(ReferenceAttention, RangesPerBatchElementAndHead) {
  Case c;
  TokenGroups& g = c.groups;
  for (int32_t part = 0; part < 4; ++part) {
    g.begin_group();
    g.add_query_run({0, 1, 6});
    g.add_key_run({part, 1, 2 + part / 2});
    g.end_group();
  }
  g.batches = 2;
  g.heads = 2;
  g.ranges = {{0, 1}, {1, 2}, {2, 3}, {3, 4}};
  g.finish();
  check(c);
  const Results all = results_of(c);
  for (int32_t part = 0; part < 4; ++part) {
    Case one = c;
    one.groups.batches = one.groups.heads = 1;
    one.groups.ranges = {{part, part + 1}};
    const Results r = results_of(one);
    for (int64_t i = 0; i < r.out.elements(); ++i)
      if (i / 36 == part / 2 && i / 3 % 2 == part % 2) {
        EXPECT_EQ(all.out.as<double>()[i], r.out.as<double>()[i]);
      }
    EXPECT_EQ(all.lse.as<double>()[part * 24 + part * 6], r.lse.as<double>()[part * 24 + part * 6]);
    EXPECT_EQ(all.lse.as<double>()[part * 24 + (part + 1) % 4 * 6], -HUGE_VAL) << "slots of other ranges";
  }
}

}  // namespace
}  // namespace fovea
