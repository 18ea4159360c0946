#include "attention/cross_shaped.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/registry.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

// Rows of one group's query or key slots, -1 for pads, sorted.
std::vector<int> rows_of(const TokenGroups& g, int32_t group, bool keys) {
  const auto& at = g.groups[static_cast<size_t>(group)];
  std::vector<int> rows;
  for (int32_t r = keys ? at.key_runs : at.query_runs; r < (keys ? at.key_runs_end : at.query_runs_end); ++r) {
    const Run& run = g.runs[static_cast<size_t>(r)];
    for (int32_t i = 0; i < run.count; ++i) rows.push_back(run.source == RowSource::kPad ? -1 : run.begin + i * run.stride);
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

const std::vector<StripeBranch> kBoth = {{Stripe::kVertical, 1}, {Stripe::kHorizontal, 1}};

TEST(Stripes, OfA4x4MapByHand) {
  const TokenGroups g = stripe_groups(0, 4, 4, kBoth, 2);
  ASSERT_EQ(g.ranges.size(), 2u);
  EXPECT_EQ(g.ranges[0].begin, 0);
  EXPECT_EQ(g.ranges[0].end, 2);
  EXPECT_EQ(g.ranges[1].begin, 2);
  EXPECT_EQ(g.ranges[1].end, 4);
  EXPECT_EQ(rows_of(g, 0, false), (std::vector<int>{0, 1, 4, 5, 8, 9, 12, 13}));
  EXPECT_EQ(rows_of(g, 1, true), (std::vector<int>{2, 3, 6, 7, 10, 11, 14, 15}));
  EXPECT_EQ(rows_of(g, 2, true), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(rows_of(g, 3, false), (std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_TRUE(g.keys_disjoint);
}

// A 2x5 map in stripes of three columns: six columns, so none before and one after; of four: eight, so one before, two after.
TEST(Stripes, ThePaddingIsCentred) {
  const TokenGroups three = stripe_groups(0, 2, 5, {{Stripe::kVertical, 1}}, 3);
  EXPECT_EQ(rows_of(three, 0, true), (std::vector<int>{0, 1, 2, 5, 6, 7}));
  EXPECT_EQ(rows_of(three, 1, true), (std::vector<int>{-1, -1, 3, 4, 8, 9}));
  EXPECT_EQ(rows_of(three, 1, false), (std::vector<int>{3, 4, 8, 9}));
  const TokenGroups four = stripe_groups(0, 2, 5, {{Stripe::kVertical, 1}}, 4);
  EXPECT_EQ(rows_of(four, 0, true), (std::vector<int>{-1, -1, 0, 1, 2, 5, 6, 7}));
  EXPECT_EQ(rows_of(four, 1, true), (std::vector<int>{-1, -1, -1, -1, 3, 4, 8, 9}));
  const MapBlocks b = stripe_blocks(2, 5, Stripe::kVertical, 4);
  EXPECT_EQ((std::vector<int64_t>{b.height, b.width, b.top, b.left}), (std::vector<int64_t>{2, 4, 0, 1}));
}

TEST(Stripes, PrefixTokensMeetEverybody) {
  const TokenGroups g = stripe_groups(1, 2, 2, kBoth, 1);
  ASSERT_EQ(g.groups.size(), 5u);
  EXPECT_EQ(rows_of(g, 0, false), (std::vector<int>{1, 3}));
  EXPECT_EQ(rows_of(g, 0, true), (std::vector<int>{0, 1, 3}));
  EXPECT_EQ(rows_of(g, 2, false), (std::vector<int>{0}));
  EXPECT_EQ(rows_of(g, 2, true), (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_EQ(rows_of(g, 4, true), (std::vector<int>{0, 3, 4}));
  EXPECT_EQ(g.ranges[0].end, 3);
  EXPECT_EQ(g.ranges[1].begin, 2);
}

TEST(Stripes, EveryTokenStandsInOneStripeOfEachDirection) {
  for (const auto& [h, w] : std::vector<std::pair<int64_t, int64_t>>{{7, 7}, {14, 15}, {56, 57}, {3, 20}, {1, 1}, {1, 9}})
    for (const int64_t stripe : {1, 2, 3, 7, 12})
      for (const int64_t prefix : {0, 2}) {
        const TokenGroups g = stripe_groups(prefix, h, w, kBoth, stripe);
        for (const TokenGroups::Range& range : g.ranges) {
          std::vector<int> seen(static_cast<size_t>(prefix + h * w), 0);
          for (int32_t i = range.begin; i < range.end; ++i)
            for (const int row : rows_of(g, i, false))
              if (row >= 0) ++seen[static_cast<size_t>(row)];
          EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), prefix + h * w) << stripe << " on " << h << "x" << w;
        }
      }
}

TEST(CrossShaped, GradientsOnMapsThatStripesDivideAndDoNot) {
  const AttentionSpec two{"cross_shaped", {{"stripe", "2"}}}, three{"cross_shaped", {{"stripe", "3"}}}, whole{"cross_shaped", {{"branches", "1"}}};
  for (const AttentionSpec& spec : {two, three, whole})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 4, 6}, TokenGrid{1, 0, 5, 7}, TokenGrid{1, 2, 3, 5}}) {
      SCOPED_TRACE(fmt::format("{} on {}", spec.str(), grid.str()));
      const auto layer = harness::attention_layer(spec, harness::attention_config(8, 4), grid);
      harness::expect_adjoint(layer);
      for (const KernelTable* table : harness::f32_tables()) {
        harness::expect_like_reference(layer, *table);
        harness::expect_same_for_any_threads(layer, *table);
      }
    }
}

TEST(CrossShaped, GradientsWithPaddedTokens) {
  std::vector<uint8_t> padding(2 * 20, 0);
  for (const size_t i : {3u, 4u, 9u, 21u, 39u}) padding[i] = 1;
  const auto layer = harness::attention_layer({"cross_shaped", {{"stripe", "2"}}}, harness::attention_config(6, 3), {2, 0, 4, 5},
                                              [&](AttentionInputs& in) { in.key_padding = padding.data(); });
  harness::expect_adjoint(layer);
  for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
}

// The odd head is vertical in even blocks and horizontal in odd ones.
TEST(CrossShaped, OddHeadsTakeTurns) {
  const auto channels = [](int64_t heads, int64_t block) {
    ParamStore p;
    AttentionConfig c = harness::attention_config(6 * heads, heads);
    c.block = block;
    make_attention(parse_attention("cross_shaped"), Scope(p), c);
    std::vector<int64_t> shares;
    for (const int i : {0, 1})
      if (const Param* w = p.find(fmt::format("attns.{}.get_v.weight", i))) shares.push_back(w->shape[0] / 6);
    return shares;
  };
  EXPECT_EQ(channels(4, 0), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(channels(4, 1), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(channels(3, 0), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(channels(3, 1), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(channels(1, 0), (std::vector<int64_t>{1}));
}

// Stripes as wide as the map are the whole map: two branches with the halves of one branch's filters give the same; and without
// filters they are global attention.
TEST(CrossShaped, StripesOverTheWholeMap) {
  harness::for_each_table([](const KernelTable& table) {
    const AttentionConfig c = harness::attention_config(12, 2);
    ParamStore two_p, one_p, global_p;
    const auto two = make_attention(parse_attention("cross_shaped:stripe=5"), Scope(two_p), c);
    const auto one = make_attention(parse_attention("cross_shaped:branches=1"), Scope(one_p), c);
    const auto global = make_attention(parse_attention("global"), Scope(global_p), c);
    for (ParamStore* p : {&two_p, &one_p, &global_p}) p->allocate(table.dtype, ParamStore::Gradients::kNo);
    harness::randomise(one_p, Rng(2));
    for (const char* name : {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"})
      for (ParamStore* p : {&two_p, &global_p}) std::memcpy(p->find(name)->value.data, one_p.find(name)->value.data, one_p.find(name)->value.bytes());
    const auto share = [&](const char* what) {
      const Tensor from = one_p.find(std::string("attns.0.get_v.") + what)->value;
      for (const int i : {0, 1}) {
        const Tensor to = two_p.find(fmt::format("attns.{}.get_v.{}", i, what))->value;
        std::memcpy(to.data, from.slice(6 * i, 6).data, to.bytes());
      }
    };
    share("weight");
    share("bias");
    Context ctx(table, table.dtype, 1);
    AttentionInputs in;
    in.grid = {2, 0, 5, 5};
    const auto x = harness::random_tensor(Shape{2, 25, 12}, Rng(3), table.dtype);
    in.x = x;
    const auto tolerance = harness::Tolerance::relative(table.dtype == DType::kF64 ? 1e-13 : 2e-6);
    harness::HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype);
    two->forward(in, a, nullptr, ctx);
    one->forward(in, b, nullptr, ctx);
    harness::expect_close(a, b, tolerance, "two branches");
    for (const char* what : {"weight", "bias"}) one_p.find(std::string("attns.0.get_v.") + what)->value.zero();
    one->forward(in, a, nullptr, ctx);
    global->forward(in, b, nullptr, ctx);
    harness::expect_close(a, b, tolerance, "without filters");
  });
}

TEST(CrossShaped, MistakesAreNamed) {
  ParamStore p;
  const auto error_of = [&](const char* spec, const AttentionConfig& c) -> std::string {
    try {
      make_attention(parse_attention(spec), Scope(p) / spec, c);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error_of("cross_shaped:stripe=0", harness::attention_config(4, 2)), testing::HasSubstr("1 to 16384"));
  EXPECT_THAT(error_of("cross_shaped:branches=3", harness::attention_config(4, 2)), testing::HasSubstr("choose one of 1, 2"));
  AttentionConfig cross = harness::attention_config(4, 2);
  cross.cross = true;
  const auto attention = make_attention(parse_attention("cross_shaped"), Scope(p) / "cross", cross);
  EXPECT_THAT(attention->unsupported({1, 0, 4, 4}), testing::ElementsAre(testing::HasSubstr("second input")));
  EXPECT_EQ(attention->unsupported({1, 0, 0, 4}).size(), 2u);
}

// Pairs by hand: 4 heads on a 2x3 map, stripes of one: columns 3 x 2², rows 2 x 3².
TEST(CrossShaped, FlopsAreTheDefinition) {
  ParamStore p;
  const auto attention = make_attention(parse_attention("cross_shaped:stripe=1"), Scope(p), harness::attention_config(8, 4));
  const double projections = 2.0 * 6 * 8 * 32, pairs = (3 * 4 + 2 * 9) / 2.0, lepe = 2.0 * 9 * 6 * 8;
  EXPECT_DOUBLE_EQ(attention->flops({1, 0, 2, 3}), projections + 4 * 8 * pairs + lepe);
}

}  // namespace
}  // namespace fovea
