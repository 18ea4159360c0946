#include "attention/sampled.h"

#include <gtest/gtest.h>

#include "attention/registry.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

// Every kind on odd, small and prefixed maps, with and without key padding.
TEST(Sampled, GradientsOfEveryKind) {
  for (const char* spec : {"sampled", "sampled:ratio=3x2", "sampled:ratio=1", "sampled:kind=linear:grid=3x2", "sampled:kind=linear",
                           "sampled:kind=strided", "sampled:kind=strided:ratio=2x3:offset=1"})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 5, 7}, TokenGrid{2, 2, 4, 3}, TokenGrid{1, 1, 1, 2}})
      for (const bool padded : {false, true}) {
        SCOPED_TRACE(fmt::format("{} on {}, padded {}", spec, grid.str(), padded));
        std::vector<uint8_t> padding(static_cast<size_t>(grid.batch * grid.tokens()), 0);
        for (size_t i = 0; i < padding.size(); ++i) padding[i] = i % 3 == 1 && i > 2;
        AttentionConfig c = harness::attention_config(4, 2);
        c.qkv_bias = !padded;  // a bias of all keys has no gradient; k.bias stands alone here
        const auto layer = harness::attention_layer(parse_attention(spec), c, grid,
                                                    [&](AttentionInputs& in) { in.key_padding = padded ? padding.data() : nullptr; });
        harness::OracleOptions o;
        if (c.qkv_bias) o.zero_gradients.push_back("attn.k.bias");
        harness::expect_adjoint(layer, o);
        for (const KernelTable* table : harness::f32_tables()) harness::expect_like_reference(layer, *table, {}, o);
      }
}

// A ratio of one samples everything.
TEST(Sampled, ARatioOfOneIsGlobalAttention) {
  harness::for_each_table([](const KernelTable& table) {
    AttentionConfig separate = harness::attention_config(12, 3);
    separate.cross = true;
    const TokenGrid grid{2, 1, 5, 6};
    for (const char* spec : {"sampled:ratio=1", "sampled:ratio=1:kind=strided"}) {
      ParamStore sp, gp;
      const auto sampled = make_attention(parse_attention(spec), Scope(sp), harness::attention_config(12, 3));
      const auto global = make_attention(parse_attention("global"), Scope(gp), separate);
      sp.allocate(table.dtype, ParamStore::Gradients::kNo);
      gp.allocate(table.dtype, ParamStore::Gradients::kNo);
      harness::randomise(gp, Rng(2));
      ASSERT_EQ(sp.params().size(), gp.params().size());
      for (const Param& p : gp.params()) std::memcpy(sp.find(p.name)->value.data, p.value.data, p.value.bytes());
      Context ctx(table, table.dtype, 1);
      AttentionInputs in;
      in.grid = grid;
      const HostTensor x = harness::random_tensor(Shape{2, 31, 12}, Rng(3), table.dtype);
      in.x = x;
      HostTensor a(x.shape, x.dtype), b(x.shape, x.dtype);
      sampled->forward(in, a, nullptr, ctx);
      global->forward(in, b, nullptr, ctx);
      harness::expect_same_bits(a, b, spec);
    }
  });
}

TEST(Sampled, KeysOfAMap) {
  SampledConfig s;
  s.ratio_h = s.ratio_w = 2;
  EXPECT_EQ(s.out_height(7), 3);  // the last row is dropped
  EXPECT_EQ(s.out_height(1), 1);  // a map smaller than a patch gives one
  s.kind = SampledConfig::Kind::kStrided;
  EXPECT_EQ(s.out_height(7), 4);
  s.offset_h = 1;
  EXPECT_EQ(s.out_height(7), 3);
  EXPECT_EQ(s.out_height(1), 1);
  s.kind = SampledConfig::Kind::kLinear;
  EXPECT_EQ(s.out_height(3), 7);
}

// Content of padded tokens plays no part, and a pooled key is gone only when all its cells are.
TEST(Sampled, PaddedTokensPlayNoPart) {
  harness::for_each_table([](const KernelTable& table) {
    for (const char* spec : {"sampled", "sampled:kind=linear:grid=2", "sampled:kind=strided"}) {
      SCOPED_TRACE(spec);
      ParamStore params;
      const auto attention = make_attention(parse_attention(spec), Scope(params), harness::attention_config(6, 2));
      params.allocate(table.dtype, ParamStore::Gradients::kNo);
      harness::randomise(params, Rng(5));
      Context ctx(table, table.dtype, 2);
      std::vector<uint8_t> padding(17, 0);
      for (const size_t t : {1u, 2u, 5u, 6u, 7u, 16u}) padding[t] = 1;
      AttentionInputs in;
      in.grid = {1, 1, 4, 4};
      in.key_padding = padding.data();
      const HostTensor x = harness::random_tensor(Shape{1, 17, 6}, Rng(1), table.dtype);
      HostTensor other = harness::copy_of(x);
      for (int64_t t = 0; t < 17; ++t)
        if (padding[static_cast<size_t>(t)] != 0) harness::fill(other.reshaped(Shape{17, 6}).slice(t, 1), 3.5);
      HostTensor y(x.shape, x.dtype), z(x.shape, x.dtype);
      in.x = x;
      attention->forward(in, y, nullptr, ctx);
      in.x = other;
      attention->forward(in, z, nullptr, ctx);
      for (int64_t t = 0; t < 17; ++t)
        if (padding[static_cast<size_t>(t)] == 0)
          harness::expect_same_bits(y.reshaped(Shape{17, 6}).slice(t, 1), z.reshaped(Shape{17, 6}).slice(t, 1), fmt::format("token {}", t));
    }
  });
}

TEST(Sampled, RefusalsGiveTheReason) {
  ParamStore p;
  const auto attention = make_attention(parse_attention("sampled"), Scope(p) / "a", harness::attention_config(4, 2));
  EXPECT_EQ(attention->unsupported({1, 1, 0, 0}).size(), 1u);
  EXPECT_THROW(make_attention(parse_attention("sampled:ratio=0"), Scope(p) / "b", harness::attention_config(4, 2)), Error);
  EXPECT_THROW(make_attention(parse_attention("sampled:kind=random"), Scope(p) / "c", harness::attention_config(4, 2)), Error);
  EXPECT_THROW(make_attention(parse_attention("sampled:kind=strided:offset=-1"), Scope(p) / "d", harness::attention_config(4, 2)), Error);
  AttentionConfig cross = harness::attention_config(4, 2);
  cross.cross = true;
  EXPECT_THROW(make_attention(parse_attention("sampled"), Scope(p) / "e", cross), Error);
}

}  // namespace
}  // namespace fovea
