#include "attention/transformer_xl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attention/registry.h"
#include "attention/segment_memory.h"
#include "attention/sinusoid.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::expect_close;
using harness::HostTensor;
using harness::Tolerance;

// x and, where memory > 0, the memory -> y; causal sequences.
harness::LayerFactory sequence_layer(const AttentionConfig& c, const TransformerXlConfig& xl, int64_t batch, int64_t tokens,
                                     int64_t memory) {
  const Shape x{batch, tokens, c.dim}, m{batch, memory, c.dim};
  std::vector<Shape> inputs = {x};
  if (memory > 0) inputs.push_back(m);
  return harness::built<TransformerXlAttention>(
      {inputs,
       {x},
       [=](ParamStore& p) { return std::make_unique<TransformerXlAttention>(Scope(p) / "attn", c, xl); },
       [=](TransformerXlAttention& a, auto in, auto out, Tape* tape, Context& ctx) {
         AttentionInputs inputs_of;
         inputs_of.x = in[0];
         inputs_of.grid = {batch, 0, 1, tokens};
         inputs_of.causal = true;
         if (memory > 0) inputs_of.memory = in[1];
         a.forward(inputs_of, out[0], tape, ctx);
       },
       [=](TransformerXlAttention& a, auto dout, auto din, Tape& tape, Context& ctx) {
         a.backward(dout[0], {din[0], {}, {}, memory > 0 ? din[1] : Tensor()}, tape, ctx);
       }});
}

void check(const harness::LayerFactory& layer, const harness::OracleOptions& options = {}) {
  harness::expect_adjoint(layer, options);
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_like_reference(layer, *table, {}, options);
    harness::expect_same_for_any_threads(layer, *table, options);
  }
}

TEST(TransformerXl, GradientsOfSequencesAndTheirMemory) {
  TransformerXlConfig xl;
  check(sequence_layer(harness::attention_config(6, 2), xl, 2, 7, 0));
  check(sequence_layer(harness::attention_config(6, 2), xl, 2, 5, 4));
  xl.clamp_len = 3;
  check(sequence_layer(harness::attention_config(6, 3), xl, 1, 6, 5));
  xl.same_length = true;
  xl.mem_len = 4;
  check(sequence_layer(harness::attention_config(6, 3), xl, 2, 6, 5));
  AttentionConfig normed = harness::attention_config(8, 2);
  normed.qk_norm = true;
  harness::OracleOptions options;
  options.zero_gradients = {"attn.k_norm.bias"};
  check(sequence_layer(normed, TransformerXlConfig(), 2, 5, 3), options);
}

TEST(TransformerXl, GradientsOfLearnedRows) {
  TransformerXlConfig xl;
  xl.learnable = 4;  // fewer than the distances
  check(sequence_layer(harness::attention_config(6, 2), xl, 2, 5, 3));
  xl.learnable = 8;  // exactly
  check(sequence_layer(harness::attention_config(6, 2), xl, 2, 5, 3));
}

TEST(TransformerXl, GradientsOfMapsWithClampAndPrefix) {
  const AttentionSpec spec{"transformer_xl", {{"clamp_len", "2"}}};
  check(harness::attention_layer(spec, harness::attention_config(6, 2), {2, 2, 4, 5}));
  check(harness::attention_layer(spec, harness::attention_config(5, 1), {1, 1, 1, 7}));
  check(harness::attention_layer(spec, harness::attention_config(5, 1), {1, 0, 6, 1}));
}

// A mechanism on one table with its parameters, as the tests below want them.
struct Bench {
  ParamStore params;
  std::unique_ptr<Attention> attention;
  Context ctx;
  Bench(const AttentionSpec& spec, const AttentionConfig& c, const KernelTable& table) : ctx(table, table.dtype, 2) {
    attention = make_attention(spec, Scope(params), c);
    params.allocate(table.dtype, ParamStore::Gradients::kYes);
    harness::randomise(params, Rng(5));
  }
  HostTensor run(AttentionInputs in) {
    HostTensor y(in.x.shape, in.x.dtype);
    attention->forward(in, y, nullptr, ctx);
    return y;
  }
  void zero(const std::string& name) { params.find(name)->value.zero(); }
};

TEST(TransformerXl, WithoutPositionTermsItIsGlobalAttention) {
  AttentionConfig c = harness::attention_config(6, 2);
  c.qkv_bias = false;
  for (const TokenGrid& grid : {TokenGrid{2, 2, 5, 7}, TokenGrid{2, 0, 1, 9}}) {
    for (const bool causal : {false, true}) {
      harness::for_each_table([&](const KernelTable& table) {
        Bench xl({"transformer_xl", {}}, c, table), global({"global", {}}, c, table);
        for (const char* name : {"r_w_bias", "r_r_bias", "r_net.weight"}) xl.zero(name);
        for (const Param& p : global.params.params())
          std::memcpy(p.value.data, xl.params.find(p.name)->value.data, p.value.bytes());
        const HostTensor x = harness::random_tensor(Shape{2, grid.tokens(), 6}, Rng(1), table.dtype);
        AttentionInputs in;
        in.x = x;
        in.grid = grid;
        in.causal = causal;
        expect_close(xl.run(in), global.run(in), Tolerance::relative(table.dtype == DType::kF64 ? 1e-13 : 1e-6), "y");
      });
    }
  }
}

// The memory is what a longer sequence has before the segment.
TEST(TransformerXl, ASegmentWithMemoryIsTheEndOfTheWholeSequence) {
  harness::for_each_table([](const KernelTable& table) {
    Bench b({"transformer_xl", {}}, harness::attention_config(6, 2), table);
    const HostTensor all = harness::random_tensor(Shape{1, 13, 6}, Rng(1), table.dtype);
    const Tensor rows = all.reshaped(Shape{13, 6});
    AttentionInputs in;
    in.causal = true;
    in.x = all;
    in.grid = {1, 0, 1, 13};
    const HostTensor whole = b.run(in);
    in.memory = rows.slice(0, 8).reshaped(Shape{1, 8, 6});
    in.x = rows.slice(8, 5).reshaped(Shape{1, 5, 6});
    in.grid = {1, 0, 1, 5};
    expect_close(b.run(in), whole.reshaped(Shape{13, 6}).slice(8, 5).reshaped(Shape{1, 5, 6}),
                 Tolerance::relative(table.dtype == DType::kF64 ? 1e-13 : 2e-6), "segment");
  });
}

// With same_length a query sees mem_len keys: what is further back changes nothing.
TEST(TransformerXl, SameLengthSeesNothingFurtherBack) {
  harness::for_each_table([](const KernelTable& table) {
    Bench b({"transformer_xl", {{"same_length", "yes"}, {"mem_len", "4"}}}, harness::attention_config(6, 2), table);
    const HostTensor x = harness::random_tensor(Shape{1, 12, 6}, Rng(1), table.dtype);
    HostTensor other = harness::copy_of(x);
    harness::fill(other.reshaped(Shape{12, 6}).slice(0, 3), 2.0);
    AttentionInputs in;
    in.causal = true;
    in.grid = {1, 0, 1, 12};
    in.x = x;
    const HostTensor y = b.run(in);
    in.x = other;
    const HostTensor z = b.run(in);
    harness::expect_same_bits(y.reshaped(Shape{12, 6}).slice(6, 6), z.reshaped(Shape{12, 6}).slice(6, 6), "tokens 6 and later");
    EXPECT_NE(harness::value_at(y, 5 * 6), harness::value_at(z, 5 * 6));
  });
}

// Side by side with itself: the parts' gradients of the memory add up.
TEST(TransformerXl, PartsOfParallelHeadsShareTheMemory) {
  const Shape x{2, 5, 8}, m{2, 3, 8};
  check(harness::built<Attention>({{x, m},
                                   {x},
                                   [](ParamStore& p) {
                                     return make_attention(parse_attention("transformer_xl@1,transformer_xl:clamp_len=2@1"),
                                                           Scope(p) / "attn", harness::attention_config(8, 4));
                                   },
                                   [](Attention& a, auto in, auto out, Tape* tape, Context& ctx) {
                                     AttentionInputs inputs;
                                     inputs.x = in[0];
                                     inputs.grid = {2, 0, 1, 5};
                                     inputs.causal = true;
                                     inputs.memory = in[1];
                                     a.forward(inputs, out[0], tape, ctx);
                                   },
                                   [](Attention& a, auto dout, auto din, Tape& tape, Context& ctx) {
                                     a.backward(dout[0], {din[0], {}, {}, din[1]}, tape, ctx);
                                   }}));
}

TEST(TransformerXl, RefusesWhatSpeaksOfSequencesOnImages) {
  ParamStore params;
  const auto learned = make_attention({"transformer_xl", {{"learnable", "9"}}}, Scope(params) / "a", harness::attention_config(6, 2));
  EXPECT_THAT(learned->unsupported({1, 0, 4, 4}), testing::ElementsAre(testing::HasSubstr("learnable")));
  EXPECT_TRUE(learned->unsupported({1, 0, 1, 16}).empty());
  const auto same = make_attention({"transformer_xl", {{"same_length", "yes"}, {"mem_len", "3"}}}, Scope(params) / "b", harness::attention_config(6, 2));
  EXPECT_THAT(same->unsupported({1, 1, 1, 4}), testing::ElementsAre(testing::HasSubstr("same_length")));
  EXPECT_THROW(make_attention({"transformer_xl", {{"same_length", "yes"}}}, Scope(params) / "c", harness::attention_config(6, 2)), Error);
}

TEST(Sinusoids, ByHand) {
  HostTensor t(Shape{2, 5}, DType::kF64);
  write_sinusoids({0, -3}, t);
  const double f = std::pow(10000.0, -2.0 / 5), g = std::pow(10000.0, -4.0 / 5);
  expect_close(t, harness::tensor_of(Shape{2, 5}, DType::kF64,
                                     {0, 0, 0, 1, 1, -std::sin(3), -std::sin(3 * f), -std::sin(3 * g), std::cos(3), std::cos(3 * f)}),
               Tolerance::absolute(1e-15), "rows");
}

TEST(SegmentMemory, KeepsTheLastRows) {
  MemoryCut cut = memory_cut(5, 4, 6);
  EXPECT_EQ(cut.begin, 3);
  EXPECT_EQ(cut.end, 9);
  cut = memory_cut(5, 4, 20);
  EXPECT_EQ(cut.begin, 0);
  EXPECT_EQ(cut.rows(), 9);
  cut = memory_cut(5, 4, 3, 2);  // the two newest rows come again
  EXPECT_EQ(cut.begin, 4);
  EXPECT_EQ(cut.end, 7);
  cut = memory_cut(1, 4, 3, 2, MemoryLengths::kSwapped);
  EXPECT_EQ(cut.end, 4);
  const HostTensor memory = harness::tensor_of(Shape{2, 1, 1}, DType::kF64, {1, 11}),
                   segment = harness::tensor_of(Shape{2, 3, 1}, DType::kF64, {2, 3, 4, 12, 13, 14});
  HostTensor to(Shape{2, 3, 1}, DType::kF64);
  copy_memory(memory, segment, {0, 3}, to);
  expect_close(to, harness::tensor_of(Shape{2, 3, 1}, DType::kF64, {1, 2, 3, 11, 12, 13}), Tolerance::absolute(0), "memory");
}

}  // namespace
}  // namespace fovea
