// Combinations of attentions: the grammar, shares of heads, parallel heads, unions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/multi_head.h"
#include "attention/parallel.h"
#include "attention/registry.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using Form = AttentionSpec::Form;
using harness::HostTensor;

TEST(CombinedSpec, BindsFromUnionToWeightToHeadsToStages) {
  const auto stages = parse_attention_stages("global@1.5,window:size=7+global@2/window");
  ASSERT_EQ(stages.size(), 2u);
  ASSERT_EQ(stages[0].form, Form::kParallel);
  ASSERT_EQ(stages[0].parts.size(), 2u);
  EXPECT_EQ(stages[0].parts[0].name, "global");
  EXPECT_EQ(stages[0].parts[0].weight, 1.5);
  ASSERT_EQ(stages[0].parts[1].form, Form::kUnion);
  EXPECT_EQ(stages[0].parts[1].weight, 2);
  EXPECT_EQ(stages[0].parts[1].parts[0].options.at("size"), "7");
  EXPECT_EQ(stages[1].form, Form::kSingle);
}

TEST(CombinedSpec, CanonicalTextReadsBackAsItself) {
  for (const char* text : {"global", "window:rule=mmdet:size=7x5", "global+window", "global,window", "global@2,window", "global@0.5,window:size=3+global@3",
                           "global+window:size=3+window:size=5"}) {
    EXPECT_EQ(parse_attention(text).str(), text);
    EXPECT_EQ(parse_attention(parse_attention(text).str()).str(), text);
  }
  EXPECT_EQ(parse_attention("global@1,window@2.0").str(), "global,window@2");
  EXPECT_EQ(parse_attention("window@3").str(), "window");  // nobody to share with
  EXPECT_EQ(parse_attention("window:size=5:rule=timm").str(), "window:rule=timm:size=5");
}

TEST(CombinedSpec, EachMistakeIsNamed) {
  EXPECT_EQ(harness::spec_error("global+"), "attention 'global+': a part has no name");
  EXPECT_EQ(harness::spec_error("global,,window"), "attention 'global,,window': a part has no name");
  EXPECT_EQ(harness::spec_error(",global"), "attention ',global': a part has no name");
  EXPECT_EQ(harness::spec_error("@2"), "attention '@2': a part has no name");
  EXPECT_EQ(harness::spec_error("global@x,window"), "attention 'global@x,window': the weight 'x' is not a positive number");
  EXPECT_EQ(harness::spec_error("global@,window"), "attention 'global@,window': the weight '' is not a positive number");
  EXPECT_EQ(harness::spec_error("global@0,window"), "attention 'global@0,window': the weight '0' is not a positive number");
  EXPECT_EQ(harness::spec_error("global@-1,window"), "attention 'global@-1,window': the weight '-1' is not a positive number");
  EXPECT_EQ(harness::spec_error("global@inf,window"), "attention 'global@inf,window': the weight 'inf' is not a positive number");
  EXPECT_EQ(harness::spec_error("global@1@2,window"), "attention 'global@1@2,window': 'global@1@2' has two weights");
  EXPECT_EQ(harness::spec_error("global@2+window"),
            "attention 'global@2+window': '+' binds tighter than '@', so the weight stands behind the whole union, as in A+B@2");
  EXPECT_EQ(harness::spec_error("global+cross_shaped"),
            "attention 'global+cross_shaped': 'cross_shaped' cannot be part of a union: its convolution of the values belongs to the stripes alone");
  EXPECT_EQ(harness::spec_error("linformer+window"),
            "attention 'linformer+window': 'linformer' cannot be part of a union: its keys are slots, which mix all tokens");
  EXPECT_THAT(harness::spec_error("global,windw"), testing::HasSubstr("did you mean 'window'"));
  EXPECT_THAT(harness::spec_error("global+window:sise=3"), testing::HasSubstr("no option 'sise'"));
}

TEST(HeadShares, LargestRemainderFirst) {
  using Shares = std::vector<int64_t>;
  EXPECT_EQ(head_shares(3, {1, 2}), (Shares{1, 2}));
  EXPECT_EQ(head_shares(4, {1, 2}), (Shares{1, 3}));
  EXPECT_EQ(head_shares(4, {1, 1, 1}), (Shares{2, 1, 1}));  // equal remainders: the first
  EXPECT_EQ(head_shares(7, {1, 1, 5}), (Shares{1, 1, 5}));
  EXPECT_EQ(head_shares(3, {0.1, 0.2}), (Shares{1, 2}));
  EXPECT_EQ(head_shares(10, {0.7, 0.2, 0.1}), (Shares{7, 2, 1}));
  EXPECT_EQ(head_shares(2, {5, 1}), (Shares{2, 0}));
  EXPECT_EQ(head_shares(1, {1, 1}), (Shares{1, 0}));
  EXPECT_EQ(head_shares(12, {1, 1}), (Shares{6, 6}));
}

AttentionConfig block_config(int64_t dim, int64_t heads, int64_t block = 0) {
  AttentionConfig c;
  c.dim = dim;
  c.heads = heads;
  c.block = block;
  c.max_tokens = 160;
  return c;
}

TEST(ParallelHeads, APartWithoutAHeadIsRefused) {
  ParamStore p;
  try {
    (void)make_attention(parse_attention("global@5,window:size=3"), Scope(p), block_config(4, 2));
    FAIL() << "built";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "attention 'global@5,window:size=3': 2 head(s) leave none for 'window:size=3'; give it more weight, or take a model "
                           "with more heads");
  }
}

TEST(ParallelHeads, GradientsAndTables) {
  for (const char* spec : {"global,window:size=3", "window:size=2@2,global,window:size=4", "global+window:size=3,global@2"})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 5, 7}, TokenGrid{1, 2, 3, 4}}) {
      SCOPED_TRACE(fmt::format("{} on {}", spec, grid.str()));
      const auto layer = harness::attention_layer(parse_attention(spec), block_config(8, 4, 1), grid);
      harness::expect_adjoint(layer);
      for (const KernelTable* table : harness::f32_tables()) {
        harness::expect_like_reference(layer, *table);
        harness::expect_same_for_any_threads(layer, *table);
      }
    }
}

// Values of the parameters of `to` from those of the same name, `prefix` before it, in `from`.
void copy_parameters(ParamStore& from, ParamStore& to, const std::string& prefix = "") {
  for (const Param& p : to.params()) {
    const Param* source = from.find(prefix + p.name);
    ASSERT_NE(source, nullptr) << prefix << p.name;
    std::memcpy(p.value.data, source->value.data, p.value.bytes());
  }
}

// Parallel heads are their parts, each alone over its share, side by side before the output projection.
TEST(ParallelHeads, AreTheirParts) {
  const KernelTable& table = kernel_table("reference");
  Context ctx(table, table.dtype, 1);
  const AttentionConfig c = block_config(12, 4);
  ParamStore all;
  const auto parallel = make_attention(parse_attention("global,window:size=3@3"), Scope(all), c);
  all.allocate(table.dtype, ParamStore::Gradients::kNo);
  harness::randomise(all, Rng(4));
  AttentionInputs in;
  in.grid = {2, 0, 4, 5};
  const HostTensor x = harness::random_tensor(Shape{2, 20, 12}, Rng(1), table.dtype);
  const HostTensor mask = harness::random_tensor(Shape{2, 4, 20, 20}, Rng(2), table.dtype);
  in.x = x;
  in.mask = mask;
  HostTensor y(x.shape, x.dtype);
  parallel->forward(in, y, nullptr, ctx);

  HostTensor together(x.shape, x.dtype);
  int64_t head = 0;
  for (const auto& [spec, heads] : std::vector<std::pair<std::string, int64_t>>{{"global", 1}, {"window:size=3", 3}}) {
    ParamStore own;
    const auto part = make_attention(parse_attention(spec), Scope(own), ParallelAttention::part_config(c, heads));
    own.allocate(table.dtype, ParamStore::Gradients::kNo);
    copy_parameters(all, own, head == 0 ? "0." : "1.");
    HostTensor out(Shape{2, 20, heads * 3}, x.dtype), mask_of_part(Shape{2, heads, 20, 20}, x.dtype);
    for (int64_t b = 0; b < 2; ++b)
      std::memcpy(mask_of_part.slice(b, 1).data, mask.slice(b, 1).reshaped(Shape{4, 400}).slice(head, heads).data, mask_of_part.bytes() / 2);
    AttentionInputs of_part = in;
    of_part.mask = mask_of_part;
    part->forward(of_part, out, nullptr, ctx);
    for (int64_t r = 0; r < 40; ++r)
      std::memcpy(together.as<double>() + r * 12 + head * 3, out.as<double>() + r * heads * 3, static_cast<size_t>(heads) * 3 * sizeof(double));
    head += heads;
  }
  for (int64_t r = 0; r < 40; ++r)
    for (int64_t o = 0; o < 12; ++o) {
      double sum = all.find("proj.bias")->value.as<double>()[o];
      for (int64_t i = 0; i < 12; ++i) sum += together.as<double>()[r * 12 + i] * all.find("proj.weight")->value.as<double>()[o * 12 + i];
      EXPECT_NEAR(y.as<double>()[r * 12 + o], sum, 1e-12);
    }
}

TEST(ParallelHeads, ReasonsNameTheirPart) {
  ParamStore p;
  AttentionConfig c = block_config(4, 2);
  c.cross = true;
  const auto parallel = make_attention(parse_attention("global,window:size=3"), Scope(p), c);
  EXPECT_EQ(parallel->unsupported({1, 0, 4, 4}), (std::vector<std::string>{"window:size=3: windows have no second input"}));
}

// ---- unions ---------------------------------------------------------------------------------------------------------

std::vector<std::string> unionable() {
  std::vector<std::string> names;
  for (const AttentionKind& k : attention_kinds())
    if (k.make_geometry) names.push_back(k.name);
  return names;
}

// The additive mask (1, H, N, N) that makes global attention the union: -infinity where no part has the pair, else the score
// bias of the first part with a bias that has it.
HostTensor dense_mask(const AttentionSpec& spec, ParamStore& params, const AttentionConfig& c, const AttentionInputs& in, Context& ctx) {
  const int64_t n = in.grid.tokens();
  HostTensor mask(Shape{1, c.heads, n, n}, DType::kF64);
  harness::fill(mask, -HUGE_VAL);
  struct Part {
    ParamStore params;
    std::unique_ptr<const AttentionGeometry> geometry;
  };
  std::vector<std::unique_ptr<Part>> parts;
  for (size_t p = 0; p < spec.parts.size(); ++p) {
    const AttentionKind& kind = attention_kind(spec.parts[p].name);
    std::map<std::string, std::string> options;
    for (const auto& o : kind.options) options[o.name] = o.default_value;
    for (const auto& [key, value] : spec.parts[p].options) options[key] = value;
    auto part = std::make_unique<Part>();
    part->geometry = kind.make_geometry(Scope(part->params), c, AttentionOptions(options), GeometryUse::kUnionPart);
    part->params.allocate(DType::kF64, ParamStore::Gradients::kNo);
    copy_parameters(params, part->params, fmt::format("part{}.", p));
    parts.push_back(std::move(part));
  }
  std::stable_partition(parts.begin(), parts.end(), [](const auto& p) { return p->geometry->has_score_bias(); });
  for (const auto& part : parts) {
    const AttentionGeometry* geometry = part->geometry.get();
    const bool biased = geometry->has_score_bias();
    const TokenGroups& g = geometry->groups(in, ctx);
    const auto patterns = geometry->pattern(in.grid, in.causal);
    HostTensor bias(Shape{c.heads * g.bias_elements()}, DType::kF64);
    if (biased) geometry->score_bias(in, g, bias, ctx);
    // By pair, what the groups' slots say; zero for groups without a bias.
    HostTensor by_pair(Shape{c.heads, n, n}, DType::kF64);
    for (int64_t h = 0; h < c.heads && biased; ++h)
      for (int32_t i = g.range(0, h).begin; i < g.range(0, h).end; ++i) {
        const TokenGroups::Group& group = g.groups[static_cast<size_t>(i)];
        if (group.bias < 0) continue;
        const TokenGroups::Bias& table = g.biases[static_cast<size_t>(group.bias)];
        const auto for_each_slot = [&](int32_t begin, int32_t end, auto&& f) {
          for (int32_t r = begin, slot = 0; r < end; ++r)
            for (int32_t k = 0; k < g.runs[static_cast<size_t>(r)].count; ++k, ++slot)
              if (g.runs[static_cast<size_t>(r)].source == RowSource::kToken)
                f(slot, g.runs[static_cast<size_t>(r)].begin + k * g.runs[static_cast<size_t>(r)].stride);
        };
        for_each_slot(group.query_runs, group.query_runs_end, [&](int32_t q, int32_t row) {
          for_each_slot(group.key_runs, group.key_runs_end, [&](int32_t k, int32_t key) {
            if (!patterns[static_cast<size_t>(h) % patterns.size()].contains(row, key)) return;
            const auto& labels = g.query_labels;
            if (!labels.empty()) {
              const int32_t a = labels[static_cast<size_t>(group.query_slot + q)], b = g.key_labels[static_cast<size_t>(group.key_slot + k)];
              if (a != b && a != kAnyLabel && b != kAnyLabel) return;
            }
            by_pair.as<double>()[(h * n + row) * n + key] =
                bias.as<double>()[c.heads * table.offset + h * table.elements() + int64_t{q} * table.keys + k];
          });
        });
      }
    for (int64_t i = 0; i < c.heads * n * n; ++i) {
      double& m = mask.as<double>()[i];
      const PairPattern& pattern = patterns[static_cast<size_t>(i / n / n) % patterns.size()];
      if (m == -HUGE_VAL && pattern.contains(i / n % n, i % n)) m = by_pair.as<double>()[i];
    }
  }
  return mask;
}

struct Step {
  HostTensor y, dx;
};

Step step(const Attention& attention, const AttentionInputs& in, const HostTensor& dy, Context& ctx) {
  Tape tape;
  Step s{HostTensor(in.x.shape, in.x.dtype), HostTensor(in.x.shape, in.x.dtype)};
  attention.forward(in, s.y, &tape, ctx);
  attention.backward(dy, {s.dx, {}, {}}, tape, ctx);
  return s;
}

// Union and dense softmax, outputs and every gradient they share.
void expect_dense(const std::string& text, const AttentionConfig& c, const TokenGrid& grid, bool causal) {
  SCOPED_TRACE(fmt::format("{} on {}{}", text, grid.str(), causal ? ", causal" : ""));
  const KernelTable& table = kernel_table("reference");
  Context ctx(table, table.dtype, 1);
  const AttentionSpec spec = parse_attention(text);
  ParamStore up, gp;
  const auto together = make_attention(spec, Scope(up), c);
  const auto global = make_attention(parse_attention("global"), Scope(gp), c);
  for (ParamStore* p : {&up, &gp}) p->allocate(table.dtype, ParamStore::Gradients::kYes);
  harness::randomise(up, Rng(7));
  copy_parameters(up, gp);
  ASSERT_TRUE(together->unsupported(grid).empty()) << together->unsupported(grid)[0];
  AttentionInputs in;
  in.grid = grid;
  in.causal = causal;
  const Shape shape{grid.batch, grid.tokens(), c.dim};
  const HostTensor x = harness::random_tensor(shape, Rng(1), table.dtype), dy = harness::random_tensor(shape, Rng(2), table.dtype);
  in.x = x;
  const Step a = step(*together, in, dy, ctx);
  const HostTensor mask = dense_mask(spec, up, c, in, ctx);
  in.mask = mask;
  in.causal = false;
  const Step b = step(*global, in, dy, ctx);
  const auto tolerance = harness::Tolerance::relative(1e-12);
  harness::expect_close(a.y, b.y, tolerance, "output");
  harness::expect_close(a.dx, b.dx, tolerance, "dx");
  for (const Param& p : gp.params()) harness::expect_close(up.find(p.name)->grad, p.grad, tolerance, p.name);
}

TEST(Union, OfAnyTwoMechanismsIsTheDenseSoftmax) {
  for (const std::string& a : unionable())
    for (const std::string& b : unionable()) {
      const std::string text = a + "+" + b;
      const auto trait = [&](auto member) { return attention_kind(a).traits.*member && attention_kind(b).traits.*member; };
      for (const int64_t block : {0, 1}) {
        const AttentionConfig c = block_config(8, 4, block);
        expect_dense(text, c, {2, 0, 9, 11}, false);
        expect_dense(text, c, {1, 0, 13, 3}, false);
        expect_dense(text, c, {1, 0, 1, 1}, false);
        if (trait(&AttentionTraits::prefix)) expect_dense(text, c, {1, 2, 9, 8}, false);
        if (trait(&AttentionTraits::causal)) expect_dense(text, c, {2, 0, 1, 70}, true);
      }
    }
}

TEST(Union, OfSeveralPartsWithTheirOwnBias) {
  for (const int64_t block : {0, 1}) {
    expect_dense("window:size=3+window:size=4+window:size=2x5", block_config(6, 3, block), {2, 0, 9, 11}, false);
    expect_dense("window:size=2x5+global+window:size=4", block_config(6, 3, block), {1, 3, 7, 8}, false);
    expect_dense("window:size=3:bias=none+window:size=5", block_config(6, 3, block), {1, 0, 8, 7}, false);
  }
}

TEST(Union, OfDilatedWindows) {
  for (const char* text : {"longformer:window=2:dilation=1_2+sparse", "window:size=3+longformer:window=1:dilation=3_1_1_2", "longformer:window=1:dilation=2+longformer:window=2"}) {
    expect_dense(text, block_config(8, 4), {2, 0, 9, 11}, false);
    expect_dense(text, block_config(8, 4, 1), {1, 2, 7, 6}, false);
  }
  expect_dense("longformer:window=3:dilation=1_2+sparse", block_config(8, 4), {1, 0, 1, 70}, true);
  ParamStore p;
  try {
    (void)make_attention(parse_attention("longformer:globals=2+window"), Scope(p), block_config(8, 4));
    FAIL() << "built";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "longformer with globals=2 cannot be part of a union: global tokens have projections of their own");
  }
}

TEST(Union, GradientsAndTables) {
  for (const char* spec : {"window:size=3+window:size=4", "longformer:window=1:dilation=1_2+sparse", "window:size=3:bias=none+window:size=2x5"})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 5, 7}, TokenGrid{1, 2, 4, 5}}) {
      SCOPED_TRACE(fmt::format("{} on {}", spec, grid.str()));
      const auto layer = harness::attention_layer(parse_attention(spec), block_config(8, 2, 1), grid);
      harness::expect_adjoint(layer);
      for (const KernelTable* table : harness::f32_tables()) {
        harness::expect_like_reference(layer, *table);
        harness::expect_same_for_any_threads(layer, *table);
      }
    }
}

TEST(Union, CountsItsPairsOnce) {
  ParamStore p;
  const AttentionConfig c = block_config(4, 1);
  const auto flops = [&](const std::string& text, const std::string& scope) {
    return make_attention(parse_attention(text), Scope(p) / scope, c)->flops({1, 0, 6, 6});
  };
  EXPECT_EQ(flops("window:size=3+window:size=3", "a"), flops("window:size=3", "b"));
  EXPECT_EQ(flops("window:size=3+global", "c"), flops("global", "d"));
  EXPECT_GT(flops("window:size=3+window:size=2", "e"), flops("window:size=3", "f"));
}

// Of a large map it counts some rows, which stand for the others; prefix tokens, which meet all, stand for themselves.
TEST(Union, CountsThePairsOfLargeMapsOnSomeRows) {
  ParamStore p;
  const AttentionConfig c = block_config(4, 1);
  const auto flops = [&](const std::string& text, const std::string& scope, const TokenGrid& grid) {
    return make_attention(parse_attention(text), Scope(p) / scope, c)->flops(grid);
  };
  const TokenGrid prefixed{1, 2, 64, 64}, large{1, 0, 1024, 1024};
  EXPECT_EQ(flops("window:size=8+window:size=8", "a", prefixed), flops("window:size=8", "b", prefixed));
  EXPECT_EQ(flops("window:size=8+window:size=8", "c", large), flops("window:size=8", "d", large));
  const TokenGrid larger{1, 0, 4097, 4096};
  const auto both = make_attention(parse_attention("window:size=8+window:size=8"), Scope(p) / "e", c);
  EXPECT_TRUE(both->unsupported(large).empty());
  EXPECT_THAT(both->unsupported(larger), ::testing::ElementsAre(::testing::HasSubstr("tokens at most, not 16781312")));
}

TEST(Union, ASecondInputIsRefused) {
  ParamStore p;
  AttentionConfig c = block_config(4, 2);
  c.cross = true;
  EXPECT_THROW(make_attention(parse_attention("global+window"), Scope(p), c), Error);
}

}  // namespace
}  // namespace fovea
