// Attention on random features: its gradients with every option, how it approaches softmax attention, and its features.
#include <gtest/gtest.h>

#include "attention/performer_estimate.h"
#include "harness/expect.h"
#include "harness/layers.h"
#include "train/optimizer.h"

namespace fovea {
namespace {

using harness::HostTensor;

AttentionConfig heads_of(int64_t dim, int64_t heads) {
  AttentionConfig c;
  c.dim = dim;
  c.heads = heads;
  return c;
}

std::vector<AttentionSpec> specs() {
  std::vector<AttentionSpec> all;
  for (const char* text : {"performer", "performer:features=7:epsilon=0", "performer:kernel=relu:scaling=1", "performer:kernel=exp",
                           "performer:kernel=gelu:epsilon=1:features=5", "performer:kernel=none", "performer:features=13:epsilon=0.3"})
    all.push_back(parse_attention(text));
  return all;
}

TEST(Performer, GradientsWithEveryOption) {
  for (const AttentionSpec& spec : specs())
    for (const bool causal : {false, true})
      for (const bool padded : {false, true}) {
        SCOPED_TRACE(spec.str() + (causal ? " causal" : "") + (padded ? " padded" : ""));
        std::vector<uint8_t> padding(2 * 13, 0);
        for (const size_t i : {0, 1, 7, 13, 25}) padding[i] = 1;
        const auto adjust = [=](AttentionInputs& in) {
          in.causal = causal;
          if (padded) in.key_padding = padding.data();
        };
        const auto layer = harness::attention_layer(spec, heads_of(8, 2), {2, 1, 3, 4}, adjust);
        harness::expect_adjoint(layer);
        for (const KernelTable* table : harness::f32_tables()) {
          SCOPED_TRACE(std::string(table->name));
          harness::expect_like_reference(layer, *table);
        }
      }
}

TEST(Performer, LongCausalSequences) {
  const auto layer = harness::attention_layer(parse_attention("performer:epsilon=0.01"), heads_of(8, 2), {1, 0, 1, 600},
                                              [](AttentionInputs& in) { in.causal = true; });
  harness::expect_adjoint(layer);
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_like_reference(layer, *table);
    harness::expect_same_for_any_threads(layer, *table);
  }
}

TEST(Performer, CrossAttention) {
  AttentionConfig c = heads_of(6, 2);
  c.cross = true;
  c.key_dim = 5;
  const Shape x{2, 4, 6}, keys{2, 7, 5};
  for (const AttentionSpec& spec : specs()) {
    SCOPED_TRACE(spec.str());
    AttentionConfig config = c;
    config.value_dim = 5;
    const auto layer = harness::built<Attention>({{x, keys},
                                                  {x},
                                                  [=](ParamStore& p) { return make_attention(spec, Scope(p), config); },
                                                  [=](Attention& a, auto in, auto out, Tape* tape, Context& ctx) {
                                                    AttentionInputs inputs;
                                                    inputs.x = in[0];
                                                    inputs.key_input = in[1];
                                                    inputs.grid = {2, 0, 2, 2};
                                                    a.forward(inputs, out[0], tape, ctx);
                                                  },
                                                  [](Attention& a, auto dout, auto din, Tape& tape, Context& ctx) {
                                                    a.backward(dout[0], {din[0], din[1], {}}, tape, ctx);
                                                  }});
    harness::OracleOptions options;  // a softmax over the keys of each channel: what they share changes nothing
    if (spec.str() == "performer:kernel=none") options.zero_gradients.push_back("k.bias");
    harness::expect_adjoint(layer, options);
  }
}

TEST(Performer, WithoutItsOutputProjection) {
  AttentionConfig c = heads_of(6, 2);
  c.project_out = false;
  const auto layer = harness::attention_layer(parse_attention("performer"), c, {2, 0, 3, 3});
  harness::expect_adjoint(layer);
}

// error · sqrt(M) is constant. Longer q and k make the estimate vary more, and get there later: with few features the error
// cannot be larger than the output.
TEST(Performer, ApproachesSoftmaxAttentionAsFeaturesGrow) {
  for (const int64_t features : {32, 128, 512, 2048})
    EXPECT_NEAR(harness::performer_error(features, 0, 0.25) * std::sqrt(static_cast<double>(features)), 0.58, 0.1) << features;
  for (const int64_t features : {2048, 8192})
    EXPECT_NEAR(harness::performer_error(features, 0, 0.5) * std::sqrt(static_cast<double>(features)), 2.95, 0.5) << features;
  EXPECT_LT(harness::performer_error(8192, 0, 0.25), 0.01);
}

// Bit by bit, over blocks, chunks and spans, and when later keys are far larger.
TEST(Performer, NoBitOfACausalRowDependsOnLaterTokens) {
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    for (const char* spec : {"performer", "performer:epsilon=0", "performer:kernel=relu", "performer:kernel=none"}) {
      SCOPED_TRACE(spec);
      ParamStore params;
      const auto attention = make_attention(parse_attention(spec), Scope(params), heads_of(8, 2));
      params.allocate(table->dtype, ParamStore::Gradients::kNo);
      harness::randomise(params, Rng(5));
      Context ctx(*table, table->dtype, 2);
      AttentionInputs in;
      in.grid = {1, 0, 1, 700};
      in.causal = true;
      const HostTensor x = harness::random_tensor(Shape{700, 8}, Rng(1), table->dtype);
      const auto run = [&](const Tensor& tokens) {
        HostTensor y(Shape{700, 8}, table->dtype);
        in.x = tokens.reshaped(Shape{1, 700, 8});
        attention->forward(in, y.reshaped(Shape{1, 700, 8}), nullptr, ctx);
        return y;
      };
      const HostTensor y = run(x);
      for (const int64_t kept : {1, 37, 290, 600}) {
        HostTensor other = harness::copy_of(x);
        harness::fill(other.slice(kept, 700 - kept), 30);
        harness::expect_same_bits(run(other).slice(0, kept), y.slice(0, kept), fmt::format("the first {} tokens", kept));
      }
    }
  }
}

TEST(Performer, FeaturesAreOrthogonalInBlocks) {
  for (const auto norms : {FeatureNorms::kGaussian, FeatureNorms::kConstant}) {
    HostTensor w(Shape{23, 8}, DType::kF64), other(Shape{23, 8}, DType::kF32);
    draw_orthogonal_features(Rng(3), norms, w);
    draw_orthogonal_features(Rng(3), norms, other);
    double lengths = 0;
    for (int64_t f = 0; f < 23; ++f) {
      for (int64_t g = 0; g < 23; ++g) {
        double dot = 0;
        for (int64_t i = 0; i < 8; ++i) dot += load_scalar(w, f * 8 + i) * load_scalar(w, g * 8 + i);
        if (f == g) lengths += dot / 23;
        if (f == g && norms == FeatureNorms::kConstant) {
          EXPECT_NEAR(dot, 8, 1e-5);
        } else if (f != g && f / 8 == g / 8) {
          EXPECT_NEAR(dot, 0, 1e-5);
        }
      }
      for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(load_scalar(w, f * 8 + i), load_scalar(other, f * 8 + i));
    }
    EXPECT_NEAR(lengths, 8, norms == FeatureNorms::kConstant ? 1e-5 : 2.5);
  }
}

TEST(Performer, FeaturesAreStateThatOnlyEndStepDrawsAnew) {
  const auto build = [](const char* spec, ParamStore& params) {
    auto attention = make_attention(parse_attention(spec), Scope(params) / "attn", heads_of(8, 2));
    params.allocate(DType::kF32, ParamStore::Gradients::kYes);
    params.initialise(Rng(1));
    return attention;
  };
  ParamStore params, same, fixed;
  const auto attention = build("performer:redraw=3", params), twin = build("performer:redraw=3", same), constant = build("performer", fixed);
  const Param& w = *params.find("attn.projection_matrix");
  EXPECT_TRUE(w.buffer);
  EXPECT_EQ(w.shape, (Shape{5, 4}));
  EXPECT_EQ(fixed.find("attn.steps_since_redraw"), nullptr);
  const HostTensor before = harness::copy_of(w.value);
  Context ctx(kernel_table("auto"), DType::kF32, 1);
  AdamW optimizer(params, {});
  for (uint64_t step = 1; step <= 3; ++step) {
    harness::expect_same_bits(w.value, before, "before it is due");
    optimizer.step(0.1, 1, ctx);
    ctx.set_training(true, Rng(7, step));
    attention->end_step(ctx);
    constant->end_step(ctx);
    if (step == 2) {  // a resumed run: the state goes on from what was saved
      for (const Param& p : params.params()) std::memcpy(same.find(p.name)->value.data, p.value.data, p.value.bytes());
    }
  }
  EXPECT_FALSE(harness::compare_bits(w.value, before).empty());
  twin->end_step(ctx);
  harness::expect_same_bits(same.find("attn.projection_matrix")->value, w.value, "after resuming");
  harness::expect_same_bits(fixed.find("attn.projection_matrix")->value, before, "never");
  EXPECT_EQ(load_scalar(params.find("attn.steps_since_redraw")->value, 0), 0);
}

TEST(Performer, RefusesWhatItCannotDo) {
  ParamStore params;
  const auto refused = [&](const char* spec) {
    ParamStore p;
    EXPECT_THROW(make_attention(parse_attention(spec), Scope(p), heads_of(8, 2)), Error) << spec;
  };
  refused("performer:kernel=tanh");
  refused("performer:features=-1");
  refused("performer:epsilon=-0.5");
  refused("performer:epsilon=x");
  refused("performer:scaling=2");
  refused("performer:redraw=-1");
  refused("performer:kernel=none:features=9");
  const auto attention = make_attention(parse_attention("performer"), Scope(params), heads_of(8, 2));
  params.allocate(DType::kF64, ParamStore::Gradients::kNo);
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  const HostTensor x(Shape{1, 4, 8}, DType::kF64), mask(Shape{1, 1, 4, 4}, DType::kF64);
  HostTensor y(Shape{1, 4, 8}, DType::kF64);
  AttentionInputs in;
  in.x = x;
  in.grid = {1, 0, 2, 2};
  in.mask = mask;
  EXPECT_THROW(attention->forward(in, y, nullptr, ctx), Error);
}

}  // namespace
}  // namespace fovea
