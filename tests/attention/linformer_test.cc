#include "attention/linformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/registry.h"
#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

void set_identity(const Tensor& m) {
  for (int64_t i = 0; i < m.dim(0); ++i)
    for (int64_t j = 0; j < m.dim(1); ++j) store_scalar(m, i * m.dim(1) + j, i == j ? 1 : 0);
}

TEST(Linformer, GradientsUnderEveryOption) {
  for (const char* options : {"slots=3", "slots=3:share_kv=yes", "slots=5:one_kv_head=yes", "slots=9:one_kv_head=yes:share_kv=yes"})
    for (const bool bias : {false, true})
      for (const bool norm : {false, true}) {
        SCOPED_TRACE(fmt::format("{} bias {} norm {}", options, bias, norm));
        AttentionConfig c = harness::attention_config(6, 2, 8);
        c.qkv_bias = bias;
        c.qk_norm = norm;
        const auto layer = harness::attention_layer(parse_attention(std::string("linformer:") + options), c, {2, 1, 2, 3});
        harness::OracleOptions o;
        if (norm) o.zero_gradients.push_back("attn.k_norm.bias");
        harness::expect_adjoint(layer, o);
        for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table, {}, o);
      }
}

TEST(Linformer, GradientsWithKeyPadding) {
  const std::vector<uint8_t> padding = {0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1};  // the second element has no key
  for (const bool bias : {false, true}) {
    AttentionConfig c = harness::attention_config(4, 2, 7);
    c.qkv_bias = bias;
    const auto layer = harness::attention_layer(parse_attention("linformer:slots=3"), c, {2, 0, 2, 3},
                                                [&](AttentionInputs& in) { in.key_padding = padding.data(); });
    harness::expect_adjoint(layer);
    for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table);
  }
}

// With as many slots as tokens and E = F = 1 the slots are the tokens.
TEST(Linformer, IdentityProjectionsAreGlobalAttention) {
  harness::for_each_table([](const KernelTable& table) {
    const TokenGrid grid{2, 1, 5, 6};
    const AttentionConfig c = harness::attention_config(12, 3, grid.tokens());
    AttentionConfig separate = c;
    separate.cross = true;
    ParamStore lp, gp;
    const auto linformer = make_attention(parse_attention("linformer"), Scope(lp), c);
    const auto global = make_attention(parse_attention("global"), Scope(gp), separate);
    lp.allocate(table.dtype, ParamStore::Gradients::kYes);
    gp.allocate(table.dtype, ParamStore::Gradients::kYes);
    harness::randomise(gp, Rng(2));
    for (const Param& p : gp.params()) std::memcpy(lp.find(p.name)->value.data, p.value.data, p.value.bytes());
    set_identity(lp.find("proj_k")->value);
    set_identity(lp.find("proj_v")->value);
    Context ctx(table, table.dtype, 2);
    AttentionInputs in;
    in.grid = grid;
    const HostTensor x = harness::random_tensor(Shape{2, 31, 12}, Rng(3), table.dtype);
    const HostTensor dy = harness::random_tensor(x.shape, Rng(4), table.dtype);
    in.x = x;
    HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype), da(x.shape, x.dtype), db(x.shape, x.dtype);
    Tape tape;
    linformer->forward(in, a, &tape, ctx);
    linformer->backward(dy, {da, {}, {}}, tape, ctx);
    global->forward(in, b, &tape, ctx);
    global->backward(dy, {db, {}, {}}, tape, ctx);
    const double tolerance = table.dtype == DType::kF64 ? 1e-13 : 5e-6;
    harness::expect_close(a, b, harness::Tolerance::relative(tolerance), "output");
    harness::expect_close(da, db, harness::Tolerance::relative(3 * tolerance), "dx");
    for (const Param& p : gp.params())
      if (p.name != "k.bias")  // zero by mathematics
        harness::expect_close(lp.find(p.name)->grad, p.grad, harness::Tolerance::relative(3 * tolerance), p.name);
  });
}

// Fewer tokens use the first rows of E, and the others get no gradient.
TEST(Linformer, ShorterInputsUseTheFirstRows) {
  const auto layer = harness::attention_layer(parse_attention("linformer:slots=3:max_tokens=9"), harness::attention_config(4, 2, 0), {2, 0, 2, 2});
  const auto run = harness::run_layer(layer, kernel_table("reference"), 1);
  EXPECT_TRUE(run.problems.empty());
  for (const auto& g : run.gradients)
    if (g.name == "attn.proj_k" || g.name == "attn.proj_v") {
      harness::expect_zero(g.value.slice(4, 5), 0, g.name);
      for (int64_t i = 0; i < 4 * 3; ++i) EXPECT_NE(load_scalar(g.value, i), 0) << g.name;
    }
}

TEST(Linformer, RefusalsGiveTheReason) {
  ParamStore p;
  const auto attention = make_attention(parse_attention("linformer:slots=4"), Scope(p) / "a", harness::attention_config(4, 2, 9));
  EXPECT_TRUE(attention->unsupported({1, 0, 3, 3}).empty());
  EXPECT_TRUE(attention->unsupported({1, 0, 1, 2}).empty());
  const auto reasons = attention->unsupported({1, 1, 3, 3});
  ASSERT_EQ(reasons.size(), 1u);
  EXPECT_THAT(reasons[0], testing::HasSubstr("9 tokens at most"));
  EXPECT_THAT(reasons[0], testing::HasSubstr("max_tokens=10"));
  EXPECT_THROW(make_attention(parse_attention("linformer"), Scope(p) / "b", harness::attention_config(4, 2, 0)), Error);
  EXPECT_THROW(make_attention(parse_attention("linformer:slots=0"), Scope(p) / "c", harness::attention_config(4, 2, 9)), Error);
  EXPECT_THROW(make_attention(parse_attention("linformer:max_tokens=-1"), Scope(p) / "d", harness::attention_config(4, 2, 9)), Error);
  EXPECT_THROW(make_attention(parse_attention("linformer:share_kv=maybe"), Scope(p) / "e", harness::attention_config(4, 2, 9)), Error);
  p.allocate(DType::kF64, ParamStore::Gradients::kNo);
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  const HostTensor x = harness::random_tensor(Shape{1, 9, 4}, Rng(1), DType::kF64);
  HostTensor y(x.shape, x.dtype);
  AttentionInputs in;
  in.x = x;
  in.grid = {1, 0, 1, 9};
  in.causal = true;
  EXPECT_THROW(attention->forward(in, y, nullptr, ctx), Error);
}

TEST(Linformer, SlotsAreCappedByTheModelUnlessGiven) {
  ParamStore p;
  make_attention(parse_attention("linformer"), Scope(p) / "small", harness::attention_config(4, 2, 49));
  make_attention(parse_attention("linformer"), Scope(p) / "large", harness::attention_config(4, 2, 1000));
  make_attention(parse_attention("linformer:slots=300"), Scope(p) / "given", harness::attention_config(4, 2, 49));
  EXPECT_EQ(p.find("small.proj_k")->shape, (Shape{49, 49}));
  EXPECT_EQ(p.find("large.proj_v")->shape, (Shape{1000, 256}));
  EXPECT_EQ(p.find("given.proj_k")->shape, (Shape{49, 300}));
}

}  // namespace
}  // namespace fovea
