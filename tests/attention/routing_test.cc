#include "attention/routing.h"

#include <gtest/gtest.h>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

std::vector<int> rows_of(const TokenGroups& g, int32_t begin, int32_t end) {  // memory row r as -1 - r
  std::vector<int> rows;
  for (int32_t r = begin; r < end; ++r) {
    const Run& run = g.runs[static_cast<size_t>(r)];
    for (int32_t i = 0; i < run.count; ++i) {
      const int row = run.begin + i * run.stride;
      rows.push_back(run.source == RowSource::kMemory ? -1 - row : row);
    }
  }
  return rows;
}
std::vector<int> queries_of(const TokenGroups& g, size_t i) { return rows_of(g, g.groups[i].query_runs, g.groups[i].query_runs_end); }
std::vector<int> keys_of(const TokenGroups& g, size_t i) { return rows_of(g, g.groups[i].key_runs, g.groups[i].key_runs_end); }

using Rows = std::vector<int>;

TEST(RoutingGroups, ClustersMeetWithPrefixAndMemory) {
  // Two batch elements, one head, two clusters of three among rows 1..6 (choice n is row n + 1), the second short of a key.
  const std::vector<int32_t> queries = {0, 1, 4, 2, 3, 5, 0, 2, 4, 1, 3, 5}, keys = {1, 2, 3, 0, 5, -1, 0, 1, 2, 3, 4, 5};
  RoutingGroups r;
  r.batch = 2;
  r.heads = 1;
  r.clusters = 2;
  r.memory = 2;
  r.queries = {7, 1, queries.data(), 3, nullptr};
  r.keys = {7, 1, keys.data(), 3, nullptr};
  r.mean_epsilon = 1e-5;
  RoutingMemory memory;
  for (int again = 0; again < 2; ++again) {
    const TokenGroups& g = build_routing_groups(r, memory);
    ASSERT_EQ(g.groups.size(), 6u);
    EXPECT_EQ(g.reduction, Reduction::kMean);
    EXPECT_EQ(g.range(1, 0).begin, 3);
    EXPECT_EQ(g.range(1, 0).end, 6);
    EXPECT_EQ(queries_of(g, 0), (Rows{0}));
    EXPECT_EQ(keys_of(g, 0), (Rows{0, 1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(queries_of(g, 1), (Rows{1, 2, 5}));
    EXPECT_EQ(keys_of(g, 1), (Rows{-1, -2, 0, 2, 3, 4}));
    EXPECT_EQ(queries_of(g, 2), (Rows{3, 4, 6}));
    EXPECT_EQ(keys_of(g, 2), (Rows{-3, -4, 0, 1, 6}));
    EXPECT_EQ(queries_of(g, 4), (Rows{1, 3, 5}));
    EXPECT_EQ(g.query_slots, 7) << "of one batch element";
    EXPECT_EQ(g.groups[3].query_slot, 0);
  }
}

TEST(RoutingGroups, NearestTokensMeetTheBlocksAroundThem) {
  // Cluster 0 has rows 0 2 3 5 6 8, cluster 1 has 1 4, row 7 takes no part. Blocks of two keys.
  const std::vector<int32_t> nearest = {0, 1, 0, 0, 1, 0, 0, -1, 0};
  RoutingGroups r;
  r.batch = r.heads = 1;
  r.clusters = 2;
  r.queries = r.keys = {9, 0, nullptr, 0, nearest.data()};
  r.block = 2;
  r.causal = true;
  RoutingMemory memory;
  const TokenGroups& g = build_routing_groups(r, memory);
  ASSERT_EQ(g.groups.size(), 4u);
  EXPECT_EQ(g.reduction, Reduction::kAssign);
  EXPECT_EQ(queries_of(g, 0), (Rows{0, 2}));
  EXPECT_EQ(keys_of(g, 0), (Rows{0, 2}));
  EXPECT_EQ(queries_of(g, 1), (Rows{3, 5}));
  EXPECT_EQ(keys_of(g, 1), (Rows{0, 2, 3, 5}));
  EXPECT_EQ(queries_of(g, 2), (Rows{6, 8}));
  EXPECT_EQ(keys_of(g, 2), (Rows{3, 5, 6, 8}));
  EXPECT_EQ(queries_of(g, 3), (Rows{1, 4}));
  r.causal = false;
  const TokenGroups& both = build_routing_groups(r, memory);
  EXPECT_EQ(keys_of(both, 0), (Rows{0, 2, 3, 5})) << "the block after too";
}

TEST(Routing, GradientsUnderEveryOption) {
  const std::vector<std::pair<std::map<std::string, std::string>, bool>> cases = {
      {{{"clusters", "3"}}, false},
      {{{"clusters", "3"}, {"memory", "2"}}, false},
      {{{"clusters", "3"}, {"shared_qk", "yes"}}, false},
      {{{"clusters", "2"}, {"shared_qk", "yes"}, {"membership", "balanced"}}, true},
      {{{"clusters", "3"}, {"membership", "nearest"}, {"window", "3"}}, false},
      {{{"clusters", "3"}, {"memory", "1"}}, true},
      {{{"clusters", "2"}, {"shared_qk", "yes"}}, true},
      {{{"clusters", "3"}, {"window", "100"}}, false},
  };
  for (const auto& [options, causal] : cases)
    for (const TokenGrid& grid : {TokenGrid{2, 0, 1, 13}, TokenGrid{2, 2, 3, 4}}) {
      if (causal && grid.prefix > 0) continue;
      const AttentionSpec spec{"routing", options};
      SCOPED_TRACE(fmt::format("{} on {}{}", spec.str(), grid.str(), causal ? ", causal" : ""));
      const auto layer = harness::attention_layer(spec, harness::attention_config(6, 2), grid, [causal = causal](AttentionInputs& in) { in.causal = causal; });
      harness::expect_adjoint(layer);
      for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
    }
}

// Cross attention: a second input, with keys of its own number.
TEST(Routing, TakesASecondInput) {
  AttentionConfig c = harness::attention_config(6, 2);
  c.cross = true;
  c.key_dim = 4;
  c.value_dim = 4;
  const auto layer = harness::built<Attention>(
      {{Shape{2, 7, 6}, Shape{2, 11, 4}},
       {Shape{2, 7, 6}},
       [=](ParamStore& p) { return make_attention({"routing", {{"clusters", "3"}}}, Scope(p) / "attn", c); },
       [](Attention& a, auto in, auto out, Tape* tape, Context& ctx) {
         AttentionInputs inputs;
         inputs.x = in[0];
         inputs.key_input = in[1];
         inputs.grid = {2, 0, 1, 7};
         a.forward(inputs, out[0], tape, ctx);
       },
       [](Attention& a, auto dout, auto din, Tape& tape, Context& ctx) { a.backward(dout[0], {din[0], din[1], {}}, tape, ctx); }});
  harness::OracleOptions options;
  options.zero_gradients = {"attn.k.bias"};  // shifts all scores of a query alike
  harness::expect_adjoint(layer, options);
}

// One cluster of everybody is global attention, but for the mean's epsilon.
TEST(Routing, OneClusterOfEverybodyIsGlobalAttention) {
  harness::for_each_table([](const KernelTable& table) {
    ParamStore rp, gp;
    const AttentionConfig c = harness::attention_config(12, 3);
    const auto routing = make_attention({"routing", {{"clusters", "1"}}}, Scope(rp), c), global = make_attention({"global", {}}, Scope(gp), c);
    rp.allocate(table.dtype, ParamStore::Gradients::kNo);
    gp.allocate(table.dtype, ParamStore::Gradients::kNo);
    harness::randomise(gp, Rng(2));
    for (const Param& p : gp.params()) std::memcpy(rp.find(p.name)->value.data, p.value.data, p.value.bytes());
    Context ctx(table, table.dtype, 1);
    AttentionInputs in;
    in.grid = {2, 1, 5, 6};
    const HostTensor x = harness::random_tensor(Shape{2, 31, 12}, Rng(3), table.dtype);
    in.x = x;
    HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype);
    routing->forward(in, a, nullptr, ctx);
    global->forward(in, b, nullptr, ctx);
    harness::expect_close(a, b, harness::Tolerance::relative(3e-5), "output");
  });
}

// A layer in training: forwards gather, end_step changes the means, nothing else does.
struct Trained {
  ParamStore params;
  std::unique_ptr<Attention> attention;
  Context ctx;
  Tape tape;
  HostTensor x;
  AttentionInputs in;
  Trained(const std::map<std::string, std::string>& options, const KernelTable& table)
      : ctx(table, table.dtype, 2), x(harness::random_tensor(Shape{2, 40, 8}, Rng(1), table.dtype)) {
    attention = make_attention({"routing", options}, Scope(params), harness::attention_config(8, 2));
    params.allocate(table.dtype, ParamStore::Gradients::kYes);
    params.initialise(Rng(7));
    in.grid = {2, 0, 5, 8};
    in.x = x;
  }
  HostTensor step(bool training, double weight = 1) {
    HostTensor y(x.shape, x.dtype), dx(x.shape, x.dtype), dy(x.shape, x.dtype);
    ctx.set_training(training, Rng(3), weight);
    attention->forward(in, y, &tape, ctx);
    attention->backward(dy, {dx, {}, {}}, tape, ctx);
    return dx;
  }
  std::vector<double> means() { return harness::to_doubles(params.find("means")->value); }
  bool ready() { return load_scalar(params.find("means_ready")->value, 0) != 0; }
};

TEST(Routing, MeansChangeInEndStepAlone) {
  harness::for_each_table([](const KernelTable& table) {
    Trained t({{"clusters", "4"}}, table);
    const auto random = t.means();
    t.step(false);
    t.attention->end_step(t.ctx);
    EXPECT_EQ(t.means(), random) << "evaluation gathers nothing";
    EXPECT_FALSE(t.ready());
    t.step(true);
    EXPECT_EQ(t.means(), random);
    t.attention->end_step(t.ctx);
    EXPECT_TRUE(t.ready());
    const auto placed = t.means();
    EXPECT_NE(placed, random) << "the first step puts the means among the tokens";
    for (size_t cluster = 0; cluster < 8; ++cluster) {
      double squares = 0;
      for (size_t d = 0; d < 4; ++d) squares += std::pow(placed[cluster * 4 + d], 2);
      EXPECT_NEAR(squares, 1, 1e-5);
    }
    t.step(true);
    t.step(true);
    t.attention->end_step(t.ctx);
    const auto moved = t.means();
    double most = 0;
    for (size_t i = 0; i < moved.size(); ++i) most = std::max(most, std::abs(moved[i] - placed[i]));
    EXPECT_GT(most, 0);
    EXPECT_LT(most, 2.1e-3) << "a thousandth of the way";
    t.attention->end_step(t.ctx);
    EXPECT_EQ(t.means(), moved) << "nothing new was gathered";
  });
}

TEST(Routing, CommitmentIsReportedAndWeighted) {
  harness::for_each_table([](const KernelTable& table) {
    Trained t({{"clusters", "4"}, {"commitment", "0.5"}}, table);
    const HostTensor plain = t.step(false);
    EXPECT_EQ(t.ctx.auxiliary_loss(), 0);
    harness::expect_zero(plain, 0, "gradient without a loss");
    const HostTensor whole = t.step(true), half = t.step(true, 0.5);
    EXPECT_GT(t.ctx.auxiliary_loss(), 0.01) << "the value itself is not weighted";
    HostTensor doubled(half.shape, half.dtype);
    for (int64_t i = 0; i < half.elements(); ++i) store_scalar(doubled, i, 2 * load_scalar(half, i));
    harness::expect_close(doubled, whole, harness::Tolerance::relative(1e-6), "gradient of the commitment");
    Trained none({{"clusters", "4"}, {"commitment", "0"}}, table);
    harness::expect_zero(none.step(true), 0, "gradient without commitment");
  });
}

// Half of a causal sequence says nothing about the other half's choices, however the second is.
TEST(Routing, BalancedChoicesLookAheadAndNearestOnesDoNot) {
  const KernelTable& table = kernel_table("reference");
  for (const bool nearest : {true, false}) {
    Trained t({{"clusters", "4"}, {"membership", nearest ? "nearest" : "balanced"}}, table);
    t.in.causal = true;
    t.in.grid = {2, 0, 1, 40};
    HostTensor y(t.x.shape, t.x.dtype), z(t.x.shape, t.x.dtype);
    t.attention->forward(t.in, y, nullptr, t.ctx);
    for (int64_t b = 0; b < 2; ++b) harness::fill(t.x.slice(b, 1).reshaped(Shape{40, 8}).slice(20, 20), 1.5);
    t.attention->forward(t.in, z, nullptr, t.ctx);
    const Tensor first = y.slice(0, 1).reshaped(Shape{40, 8}).slice(0, 20), again = z.slice(0, 1).reshaped(Shape{40, 8}).slice(0, 20);
    EXPECT_EQ(harness::compare_bits(first, again).empty(), nearest);
  }
}

TEST(Routing, ClustersFollowTheLengthTheModelIsBuiltFor) {
  ParamStore p;
  AttentionConfig c = harness::attention_config(8, 2);
  c.max_tokens = 197;
  const auto a = make_attention({"routing", {}}, Scope(p), c);
  EXPECT_EQ(p.find("means")->shape, (Shape{2, 14, 4}));
  EXPECT_TRUE(p.find("means")->buffer);
  EXPECT_TRUE(a->unsupported({1, 1, 14, 14}).empty());
}

}  // namespace
}  // namespace fovea
