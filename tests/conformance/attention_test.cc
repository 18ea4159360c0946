// Every mechanism of the registry, with its default options, on maps of even, odd and small size: gradients of the input and
// of every parameter, all tables against the reference, threads, and the properties that its traits declare.
#include <gtest/gtest.h>

#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

struct Case {
  std::string name;
  AttentionConfig config;
  TokenGrid grid;
};

AttentionConfig config_of(int64_t dim, int64_t heads) {
  AttentionConfig c;
  c.dim = dim;
  c.heads = heads;
  return c;
}

std::vector<Case> cases(const AttentionKind& kind) {
  std::vector<Case> all = {{"14x15", config_of(6, 2), {1, 0, 14, 15}}, {"small", config_of(4, 1), {2, 0, 3, 2}}, {"one token", config_of(3, 1), {2, 0, 1, 1}}};
  AttentionConfig shifted = config_of(6, 3);
  shifted.block = 1;
  all.push_back({"odd block, 9x8", shifted, {2, 0, 9, 8}});
  AttentionConfig normed = config_of(8, 2);
  normed.qk_norm = kind.traits.qk_norm;
  normed.qkv_bias = false;
  all.push_back({"without bias, with qk_norm where there is one", normed, {2, 0, 4, 3}});
  AttentionConfig wide = config_of(4, 2);
  wide.head_dim = 5;
  all.push_back({"head_dim beyond dim / heads", wide, {1, 0, 4, 5}});
  if (kind.traits.prefix) all.push_back({"two prefix tokens", config_of(6, 2), {2, 2, 3, 4}});
  return all;
}

class EveryAttention : public testing::TestWithParam<std::string> {
 protected:
  const AttentionKind& kind() const { return attention_kind(GetParam()); }
  AttentionSpec spec() const { return {GetParam(), {}}; }
  // Zero by mathematics: with one key the weights are 1 whatever the scores; a bias of all keys shifts whole rows of scores.
  harness::OracleOptions options(const Case& c) const {
    harness::OracleOptions o;
    if (c.grid.tokens() == 1 && kind().name == "window") o.zero_gradients.push_back("attn.relative_position_bias_table");
    if (c.grid.tokens() == 1 && kind().name == "window_v2")
      for (const char* p : {"logit_scale", "q_bias", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"})
        o.zero_gradients.push_back(fmt::format("attn.{}", p));
    if (c.grid.tokens() == 1 && kind().name == "transformer_xl")
      for (const char* p : {"r_w_bias", "r_r_bias", "r_net.weight"}) o.zero_gradients.push_back(fmt::format("attn.{}", p));
    // Stripes that leave the map have keys of zeros besides, whose scores no bias shifts.
    if (c.config.qk_norm && kind().name != "cross_shaped" && kind().traits.softmax) o.zero_gradients.push_back("attn.k_norm.bias");
    if (kind().traits.separate_qkv && c.config.qkv_bias) o.zero_gradients.push_back("attn.k.bias");
    // Pooled in patches of 2x2 a small map is one key as well.
    const bool one_key = c.grid.tokens() == 1 || (kind().name == "sampled" && c.grid.prefix == 0 && c.grid.height * c.grid.width <= 6);
    if (kind().traits.separate_qkv && one_key)
      for (const char* name : {"attn.q.weight", "attn.q.bias", "attn.k.weight"}) o.zero_gradients.push_back(name);
    if (c.grid.prefix == 0 && !kind().traits.prefix_parameters.empty()) {
      ParamStore params;
      const auto attention = make_attention(spec(), Scope(params), c.config);
      for (const std::string& name : kind().traits.prefix_parameters)
        if (params.find(name)) o.zero_gradients.push_back("attn." + name);
    }
    return o;
  }
  template <class F>
  void for_each_case(F&& f) const {
    for (const Case& c : cases(kind())) {
      SCOPED_TRACE(c.name);
      f(c);
    }
  }
};

TEST_P(EveryAttention, GradientOfInputAndEveryParameter) {
  for_each_case([&](const Case& c) {
    harness::expect_adjoint(harness::attention_layer(spec(), c.config, c.grid), options(c));
  });
}

TEST_P(EveryAttention, TablesAgreeWithTheReference) {
  for_each_case([&](const Case& c) {
    for (const KernelTable* table : harness::f32_tables()) {
      SCOPED_TRACE(std::string(table->name));
      harness::expect_like_reference(harness::attention_layer(spec(), c.config, c.grid), *table, {}, options(c));
    }
  });
}

TEST_P(EveryAttention, ThreadsChangeNoBit) {
  const Case c = cases(kind())[0];
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_same_for_any_threads(harness::attention_layer(spec(), c.config, {3, 0, 14, 15}), *table);
  }
}

// A mechanism with its parameters on one table, for the properties.
struct Bench {
  ParamStore params;
  std::unique_ptr<Attention> attention;
  Context ctx;
  Bench(const AttentionSpec& spec, const AttentionConfig& config, const KernelTable& table) : ctx(table, table.dtype, 2) {
    AttentionConfig sized = config;
    sized.max_tokens = 80;  // more than any property's grid has
    attention = make_attention(spec, Scope(params), sized);
    params.allocate(table.dtype, ParamStore::Gradients::kYes);
    harness::randomise(params, Rng(5));
  }
  HostTensor run(const Tensor& x, AttentionInputs in) {
    HostTensor y(x.shape, x.dtype);
    in.x = x;
    attention->forward(in, y, nullptr, ctx);
    return y;
  }
};

TEST_P(EveryAttention, APermutationOfTheBatchPermutesTheResult) {
  if (!kind().traits.batch_independent) GTEST_SKIP() << "declared: elements of a batch influence each other";
  harness::for_each_table([&](const KernelTable& table) {
    Bench b(spec(), config_of(6, 2), table);
    AttentionInputs in;
    in.grid = {2, 0, 9, 8};
    const HostTensor x = harness::random_tensor(Shape{2, 72, 6}, Rng(1), table.dtype);
    HostTensor swapped(x.shape, x.dtype);
    std::memcpy(swapped.slice(0, 1).data, x.slice(1, 1).data, x.bytes() / 2);
    std::memcpy(swapped.slice(1, 1).data, x.slice(0, 1).data, x.bytes() / 2);
    const HostTensor y = b.run(x, in), z = b.run(swapped, in);
    harness::expect_same_bits(y.slice(0, 1), z.slice(1, 1), "first element");
    harness::expect_same_bits(y.slice(1, 1), z.slice(0, 1), "second element");
  });
}

TEST_P(EveryAttention, APaddedKeyChangesNothing) {
  if (!kind().traits.key_padding) GTEST_SKIP() << "declared: takes no key padding";
  harness::for_each_table([&](const KernelTable& table) {
    Bench b(spec(), config_of(6, 2), table);
    AttentionInputs in;
    in.grid = {1, 0, 4, 4};
    std::vector<uint8_t> padding(16, 0);
    padding[5] = 1;
    in.key_padding = padding.data();
    const HostTensor x = harness::random_tensor(Shape{1, 16, 6}, Rng(1), table.dtype);
    HostTensor other = harness::copy_of(x);
    harness::fill(other.reshaped(Shape{16, 6}).slice(5, 1), 3.5);
    const HostTensor y = b.run(x, in), z = b.run(other, in);
    for (int64_t t = 0; t < 16; ++t)
      if (t != 5) harness::expect_same_bits(y.reshaped(Shape{16, 6}).slice(t, 1), z.reshaped(Shape{16, 6}).slice(t, 1), fmt::format("token {}", t));
  });
}

TEST_P(EveryAttention, FullyMaskedRowsGiveZeros) {
  if (!kind().traits.key_padding) GTEST_SKIP() << "declared: takes no key padding";
  harness::for_each_table([&](const KernelTable& table) {
    Bench b(spec(), config_of(6, 2), table);
    AttentionInputs in;
    in.grid = {1, 0, 4, 4};
    const std::vector<uint8_t> padding(16, 1);
    in.key_padding = padding.data();
    harness::fill(b.params.find("proj.bias")->value, 0);
    const HostTensor x = harness::random_tensor(Shape{1, 16, 6}, Rng(1), table.dtype);
    harness::expect_zero(b.run(x, in), 0, "output");
  });
}

TEST_P(EveryAttention, CausalMeansCausal) {
  if (!kind().traits.causal) GTEST_SKIP() << "declared: has no causal form";
  harness::for_each_table([&](const KernelTable& table) {
    Bench b(spec(), config_of(6, 2), table);
    AttentionInputs in;
    in.grid = {1, 0, 1, 33};
    in.causal = true;
    const HostTensor x = harness::random_tensor(Shape{1, 33, 6}, Rng(1), table.dtype);
    HostTensor other = harness::copy_of(x);
    harness::fill(other.reshaped(Shape{33, 6}).slice(20, 13), 2.0);
    const HostTensor y = b.run(x, in), z = b.run(other, in);
    harness::expect_same_bits(y.reshaped(Shape{33, 6}).slice(0, 20), z.reshaped(Shape{33, 6}).slice(0, 20), "tokens before the change");
  });
}

TEST_P(EveryAttention, AnEmptyBatchIsLegal) {
  harness::for_each_table([&](const KernelTable& table) {
    Bench b(spec(), config_of(6, 2), table);
    AttentionInputs in;
    in.grid = {0, 0, 4, 4};
    EXPECT_NO_THROW(b.run(HostTensor(Shape{0, 16, 6}, table.dtype), in));
  });
}

std::vector<std::string> names() {
  std::vector<std::string> n;
  for (const AttentionKind& k : attention_kinds()) n.push_back(k.name);
  return n;
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryAttention, testing::ValuesIn(names()), [](const testing::TestParamInfo<std::string>& i) { return i.param; });

}  // namespace
}  // namespace fovea
