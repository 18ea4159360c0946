#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"
#include "heads/classifier.h"
#include "models/small_models.h"

namespace fovea {
namespace {

// Images -> logits (both heads side by side).
class ClassifierLayer : public harness::LayerUnderTest {
 public:
  ClassifierLayer(const ModelConfig& config, int64_t batch, int64_t height, int64_t width)
      : model_(config), images_{batch, config.input.channels, height, width}, logits_{batch, config.classes} {
    for (const Param& p : model_.params().params()) params().add(p.name, p.shape, p.init, p.decay);
  }
  std::vector<Shape> input_shapes() const override { return {images_}; }
  std::vector<Shape> output_shapes() const override { return std::vector<Shape>(static_cast<size_t>(model_.heads()), logits_); }
  void forward(std::span<const ConstTensor> in, std::span<const Tensor> out, Tape* tape, Context& ctx) override {
    borrow();
    ArenaScope scope(ctx.scratch());
    const auto o = model_.forward(in[0], tape, ctx);
    for (size_t h = 0; h < out.size(); ++h) std::memcpy(out[h].data, o.logits[h].data, out[h].bytes());
  }
  void backward(std::span<const ConstTensor> dout, std::span<const Tensor> din, Tape& tape, Context& ctx) override {
    borrow();
    std::array<Tensor, 2> d;
    for (size_t h = 0; h < dout.size(); ++h) d[h] = Tensor(const_cast<void*>(dout[h].data), dout[h].shape, dout[h].dtype);
    model_.backward(d, {}, {}, din[0], tape, ctx);
  }

 private:
  // The classifier owns its store; the oracle's memory stands in for it.
  void borrow() {
    for (Param& p : model_.params().params()) {
      const Param* own = params().find(p.name);
      p.value = own->value;
      p.grad = own->grad;
    }
  }
  Classifier model_;
  Shape images_, logits_;
};

// `zero`: gradients that are zero by mathematics (a bias of all keys shifts whole rows of scores).
void expect_right(const ModelConfig& config, int64_t height, int64_t width, const std::vector<std::string>& zero = {},
                  const harness::TableTolerance& tolerance = {1e-5, 2.5e-5, 1e-6}) {
  harness::OracleOptions o;
  o.zero_gradients = zero;
  const harness::LayerFactory layer = [=] { return std::make_unique<ClassifierLayer>(config, 2, height, width); };
  harness::expect_adjoint(layer, o);
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_like_reference(layer, *table, tolerance, o);
  }
}

TEST(Vit, GradientsOfEveryParameterAtItsSizeAndAtOthers) {
  expect_right(small_vit(), 8, 12);
  expect_right(small_vit(), 12, 9);  // position table resampled; a rest at the border
}

TEST(Vit, AveragePoolRegistersNormsAndStem) {
  ModelConfig c = small_vit();
  c.class_token = false;
  c.pool = "avg";
  c.layer_scale = 0.5;
  expect_right(c, 8, 12);
  c = small_vit();
  c.register_tokens = 2;
  c.prefix_positions = false;
  c.qk_norm = true;
  c.convolutional_stem = true;
  expect_right(c, 8, 12, {"blocks.0.attn.k_norm.bias", "blocks.1.attn.k_norm.bias"});
}

TEST(Vit, NoPositions) {
  ModelConfig c = small_vit();
  c.positions = false;
  expect_right(c, 8, 12);
  expect_right(c, 12, 9);
}

TEST(Vit, ParallelBranches) {
  ModelConfig c = small_vit();
  c.parallel = 2;
  expect_right(c, 8, 12);
  c.parallel = 3;
  c.layer_scale = 0.4;
  expect_right(c, 8, 12);
}

TEST(Vit, NormsAtTheEndOfBranches) {
  ModelConfig c = small_vit();
  c.block_norm = "res_post";
  c.qkv_bias = false;
  expect_right(c, 8, 12);
}

TEST(Vit, AttentionPooling) {
  ModelConfig c = small_vit();
  c.class_token = false;
  c.pool = "map";
  c.activation = "gelu_tanh";
  expect_right(c, 8, 12);
  expect_right(c, 11, 9);
  c.register_tokens = 2;  // which are not pooled, or are
  expect_right(c, 8, 12);
  c.pool_prefix = true;
  expect_right(c, 8, 12);
  c.last_norm = "pooled";
  c.head_bias = false;
  expect_right(c, 8, 12);
}

TEST(Vit, AttentionPoolingGivesFeaturesWithoutAHead) {
  ModelConfig c = small_vit();
  c.class_token = false;
  c.pool = "map";
  Classifier with(c);
  c.classes = 0;
  Classifier without(c);
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  const auto images = harness::random_tensor(Shape{3, 3, 8, 12}, Rng(4), DType::kF64);
  for (Classifier* m : {&with, &without}) m->params().allocate(DType::kF64, ParamStore::Gradients::kNo);
  with.params().initialise(Rng(1));
  for (Param& p : without.params().params()) std::memcpy(p.value.data, with.params().find(p.name)->value.data, p.value.bytes());
  ArenaScope scope(ctx.scratch());
  const auto a = with.forward(images, nullptr, ctx), b = without.forward(images, nullptr, ctx);
  ASSERT_EQ(b.pooled.shape, (Shape{3, 8}));
  EXPECT_EQ(std::memcmp(a.pooled.data, b.pooled.data, a.pooled.bytes()), 0);
  EXPECT_EQ(with.params().count() - without.params().count(), 8 * 3 + 3);
}

TEST(Deit, TwoHeads) {
  ModelConfig c = small_vit();
  c.distillation_token = true;
  expect_right(c, 8, 12);
  c.distillation_head = false;  // the token remains
  expect_right(c, 8, 12);
  EXPECT_EQ(Classifier(c).heads(), 1);
}

// DeiT III: the table has rows for the patches alone.
TEST(Deit, ThirdVersion) {
  ModelConfig c = small_vit();
  c.prefix_positions = false;
  c.layer_scale = 0.3;
  expect_right(c, 8, 12);
  expect_right(c, 10, 9);
}

// Registers without positions, which stand between the class token and the patches; a table of a size of its own.
TEST(DinoV2, GatedPerceptronAndRegisters) {
  ModelConfig c = small_vit();
  c.activation = "swiglu";
  c.mlp_ratio = 2.5;
  c.layer_scale = 0.3;
  c.register_tokens = 2;
  c.register_positions = false;
  c.position_resampling = "bicubic";
  c.position_grid = {3, 5};
  c.patch_rest = "drop";
  c.pool = "token_avg";
  Classifier model(c);
  EXPECT_EQ(model.params().find("blocks.0.mlp.fc1.weight")->shape, (Shape{20, 8}));
  EXPECT_EQ(model.params().find("blocks.0.mlp.fc2.weight")->shape, (Shape{8, 10}));
  EXPECT_EQ(model.params().find("pos_embed")->shape, (Shape{1, 16, 8}));
  EXPECT_EQ(model.params().find("head.weight")->shape, (Shape{3, 16}));
  expect_right(c, 8, 12);
  expect_right(c, 14, 23);
  EXPECT_EQ(model.backbone().unsupported(3, 20).size(), 1u);
}

TEST(Vit, NormBeforeTheBlocksAndQuickGelu) {
  ModelConfig c = small_vit();
  c.pre_norm = true;
  c.activation = "quick_gelu";
  EXPECT_EQ(Classifier(c).params().find("patch_embed.proj.bias"), nullptr);
  expect_right(c, 8, 12);
  expect_right(c, 9, 6);
}

TEST(Vit, PlacesOfTheLastNorm) {
  ModelConfig c = small_vit();
  c.pool = "avg";
  for (const char* place : {"tokens", "pooled", "none"}) {
    SCOPED_TRACE(place);
    c.last_norm = place;
    expect_right(c, 8, 12);
    Classifier model(c);
    EXPECT_EQ(model.params().find("norm.weight") != nullptr, std::string(place) == "tokens");
    EXPECT_EQ(model.params().find("fc_norm.weight") != nullptr, std::string(place) == "pooled");
  }
  c.pool = "token";
  c.last_norm = "pooled";
  expect_right(c, 8, 12);
}

TEST(Vit, ARepresentationBeforeTheHead) {
  ModelConfig c = small_vit();
  c.representation = 5;
  EXPECT_EQ(Classifier(c).params().find("pre_logits.fc.weight")->shape, (Shape{5, 8}));
  expect_right(c, 8, 12);
}

TEST(Classifier, WithoutAHeadThereAreFeaturesAlone) {
  ModelConfig c = small_vit();
  c.classes = 0;
  Classifier model(c);
  EXPECT_EQ(model.heads(), 0);
  EXPECT_EQ(model.params().find("head.weight"), nullptr);
  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kYes);
  model.params().initialise(Rng(1));
  Context ctx(table, table.dtype, 1);
  const auto x = harness::random_tensor(Shape{1, 3, 8, 12}, Rng(2), table.dtype);
  const harness::HostTensor logits(Shape{1, 1}, table.dtype);
  EXPECT_THAT([&] { model.classify(x, logits, ctx); }, testing::ThrowsMessage<Error>(testing::HasSubstr("small has no classification head")));
  Tape tape;
  const auto out = model.forward(x, &tape, ctx);
  const auto d = harness::random_tensor(out.backbone.features.shape, Rng(3), table.dtype);
  model.params().zero_grads();
  model.backward({}, d, {}, {}, tape, ctx);
  EXPECT_NE(load_scalar(model.params().find("cls_token")->grad, 0), 0);
}

TEST(Swin, GradientsOfEveryParameterAtEvenAndOddSizes) {
  expect_right(small_swin(), 12, 12);
  expect_right(small_swin(), 14, 9);
}

TEST(Swin, GlobalAttentionInTheLastStages) {
  ModelConfig c = small_swin();
  c.attention = "window:size=3/global";
  c.convolutional_stem = true;
  expect_right(c, 12, 10);
}

TEST(Swin, PyramidNorms) {
  ModelConfig c = small_swin();
  c.pyramid_norms = true;  // of the inner maps' norms the logits see nothing
  expect_right(c, 12, 10, {"norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"});
  c.first_pyramid_norm = 2;
  expect_right(c, 12, 10);
}

// Tables of another window, resampled: the last maps are smaller than the windows, and all windows are another than the table's.
TEST(Swin, GradientsThroughResampledTables) {
  ModelConfig c = small_swin();
  for (const char* attention : {"window:size=4:pretrained_window=3:resample=bicubic:rule=microsoft", "window:size=3x4:pretrained_window=2:resample=geometric",
                                "window:size=2:pretrained_window=4:resample=bicubic:rule=mmdet", "window:size=3:shift=none:rule=torchvision"}) {
    SCOPED_TRACE(attention);
    c.attention = attention;
    expect_right(c, 14, 9);
  }
}

TEST(Swin, NormsBetweenBlocksWithAnEpsilonOfTheirOwn) {
  ModelConfig c = small_swin();
  c.merge_norm_epsilon = 0.1;
  expect_right(c, 10, 10);
}

TEST(Swin, AbsolutePositions) {
  ModelConfig c = small_swin();
  c.absolute_positions = true;
  expect_right(c, 8, 12);
  c.position_resampling = "bicubic";
  c.position_grid = {5, 5};
  expect_right(c, 11, 9);
  c.position_resampling = "none";
  EXPECT_THAT(Classifier(c).backbone().unsupported(8, 12), testing::ElementsAre(testing::HasSubstr("absolute positions are those of 5x5 patches")));
  EXPECT_TRUE(Classifier(c).backbone().unsupported(10, 10).empty());
}

TEST(CSwin, GradientsOfEveryParameterAtEvenAndOddSizes) {
  expect_right(small_cswin(), 16, 24);
  expect_right(small_cswin(), 21, 13);
  expect_right(small_cswin(), 3, 4);  // one token from the stem on
}

TEST(CSwin, OtherAttentionsAndPyramidNorms) {
  ModelConfig c = small_cswin();
  c.attention = "window:size=2/cross_shaped:stripe=2/global";
  c.layer_scale = 0.3;
  expect_right(c, 20, 17);
  c = small_cswin();
  c.pyramid_norms = true;  // of the inner maps' norms the logits see nothing
  expect_right(c, 16, 16, {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"});
}

TEST(CSwin, CrossShapedStripesInOtherBackbones) {
  ModelConfig c = small_swin();
  c.attention = "cross_shaped:stripe=2";
  expect_right(c, 12, 10);
  c = small_vit();
  c.attention = "cross_shaped:stripe=2";
  // The class token alone leaves the last block, and it has no position term.
  const std::string last = "blocks.1.attn.attns.";
  expect_right(c, 12, 20, {last + "0.get_v.weight", last + "0.get_v.bias", last + "1.get_v.weight", last + "1.get_v.bias"});
  const Classifier vit(c);
  EXPECT_NE(const_cast<ParamStore&>(vit.params()).find("blocks.0.attn.attns.1.get_v.weight"), nullptr);
}

TEST(CSwin, NamesAndPyramid) {
  ModelConfig c = small_cswin();
  Classifier model(c);
  for (const char* name : {"stage1_conv_embed.0.weight", "stage1_conv_embed.2.bias", "stage1.1.norm1.weight", "stage1.0.qkv.weight",
                           "stage1.0.attns.1.get_v.weight", "stage3.0.attns.0.get_v.bias", "stage2.0.proj.bias", "stage2.0.mlp.fc2.weight",
                           "merge2.conv.weight", "merge2.norm.bias", "norm.weight", "head.weight"})
    EXPECT_NE(model.params().find(name), nullptr) << name;
  EXPECT_EQ(model.params().find("stage3.0.attns.1.get_v.weight"), nullptr);
  EXPECT_TRUE(model.backbone().unsupported(3, 3).empty());
  EXPECT_EQ(model.backbone().unsupported(2, 30).size(), 1u);

  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
  model.params().initialise(Rng(1));
  Context ctx(table, table.dtype, 1);
  ArenaScope scope(ctx.scratch());
  const auto x = harness::random_tensor(Shape{1, 3, 65, 96}, Rng(2), table.dtype);
  const auto out = model.forward(x, nullptr, ctx);
  ASSERT_EQ(out.backbone.pyramid.size(), 3u);
  const int64_t heights[] = {16, 8, 4}, widths[] = {24, 12, 6};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(out.backbone.pyramid[i].stride, 4 << i);
    EXPECT_EQ(out.backbone.pyramid[i].grid.height, heights[i]);
    EXPECT_EQ(out.backbone.pyramid[i].grid.width, widths[i]);
    EXPECT_EQ(out.backbone.pyramid[i].tokens.last(), 8 << i);
  }
}

// Temperatures of about 10 multiply what float32 scores err.
TEST(SwinV2, GradientsOfEveryParameterAtEvenAndOddSizes) {
  expect_right(small_swin_v2(), 12, 12, {}, {1e-4, 5e-4, 1e-6});
  expect_right(small_swin_v2(), 14, 9, {}, {1e-4, 5e-4, 1e-6});
}

TEST(SwinV2, OtherAttentionsInItsBackboneAndItsAttentionInOthers) {
  ModelConfig c = small_swin_v2();
  c.attention = "window_v2:size=3:pretrained_window=4/window:size=2/global";
  c.qkv_bias = false;
  c.drop_path = 0.1;
  expect_right(c, 12, 10, {}, {1e-4, 5e-4, 1e-6});
  c = small_swin();
  c.attention = "window_v2:size=3";
  expect_right(c, 12, 10, {}, {1e-4, 5e-4, 1e-6});
  c = small_vit();
  c.attention = "window_v2:size=2";
  // The class token alone leaves the last block, and it has no position term.
  const std::string last = "blocks.1.attn.cpb_mlp.";
  expect_right(c, 8, 12, {last + "0.weight", last + "0.bias", last + "2.weight"}, {1e-4, 5e-4, 1e-6});
  c.class_token = false;
  c.pool = "avg";
  expect_right(c, 8, 12, {}, {1e-4, 5e-4, 1e-6});
}

// Norms at the end of the residual branches begin as zeros, so that a fresh stage is its merging alone.
TEST(SwinV2, AFreshBlockIsTheIdentity) {
  Classifier model(small_swin_v2());
  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
  model.params().initialise(Rng(1));
  EXPECT_EQ(load_scalar(model.params().find("layers.0.blocks.1.norm2.weight")->value, 0), 0);
  EXPECT_EQ(load_scalar(model.params().find("layers.1.downsample.norm.weight")->value, 0), 1);
  EXPECT_EQ(model.params().find("layers.1.downsample.norm.weight")->shape, (Shape{16}));
  Context ctx(table, table.dtype, 1);
  ArenaScope scope(ctx.scratch());
  const auto x = harness::random_tensor(Shape{1, 3, 12, 12}, Rng(2), table.dtype);
  const auto first = model.forward(x, nullptr, ctx).backbone.pyramid[0].tokens;
  const harness::HostTensor before = harness::copy_of(first);
  for (const char* name : {"layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.1.mlp.fc1.weight"})
    harness::fill(model.params().find(name)->value, 3);
  harness::expect_same_bits(model.forward(x, nullptr, ctx).backbone.pyramid[0].tokens, before, "first stage");
}

class SwinPyramid : public testing::TestWithParam<const char*> {};

TEST_P(SwinPyramid, Strides) {
  ModelConfig c = preset_config(GetParam());
  c.dim = 12;
  c.depths = {1, 1, 1, 1};
  Classifier model(c);
  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
  model.params().initialise(Rng(1));
  Context ctx(table, table.dtype, 1);
  ArenaScope scope(ctx.scratch());
  const auto x = harness::random_tensor(Shape{1, 3, 65, 96}, Rng(2), table.dtype);
  const auto out = model.forward(x, nullptr, ctx);
  ASSERT_EQ(out.backbone.pyramid.size(), 4u);
  const int64_t heights[] = {17, 9, 5, 3}, widths[] = {24, 12, 6, 3};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(out.backbone.pyramid[i].stride, 4 << i);
    EXPECT_EQ(out.backbone.pyramid[i].grid.height, heights[i]);
    EXPECT_EQ(out.backbone.pyramid[i].grid.width, widths[i]);
    EXPECT_EQ(out.backbone.pyramid[i].tokens.last(), 12 << i);
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, SwinPyramid,
                         testing::Values("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_base_window12to16_192to256"),
                         [](const auto& i) { return std::string(i.param); });

// One constant model, four threads, each with a context of its own.
TEST(Classifier, ServesManyThreads) {
  Classifier model(small_swin());
  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
  model.params().initialise(Rng(1));
  const auto x = harness::random_tensor(Shape{2, 3, 12, 12}, Rng(2), table.dtype);
  const auto run = [&](const Tensor& logits) {
    Context ctx(table, table.dtype, 1);
    for (int i = 0; i < 20; ++i) model.classify(x, logits, ctx);
    EXPECT_EQ(ctx.scratch().used(), 0u);
  };
  const harness::HostTensor expected(Shape{2, 3}, table.dtype);
  run(expected);
  std::vector<harness::HostTensor> results;
  for (int t = 0; t < 4; ++t) results.emplace_back(Shape{2, 3}, table.dtype);
  std::vector<std::thread> threads;
  for (const auto& r : results) threads.emplace_back([&] { run(r); });
  for (auto& t : threads) t.join();
  for (const auto& r : results) harness::expect_same_bits(r, expected, "logits");
}

TEST(Classifier, ASteadyInferenceAllocatesNothing) {
  for (const ModelConfig& config : {small_swin(), small_swin_v2()}) {
    Classifier model(config);
    const KernelTable& table = kernel_table("auto");
    model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
    model.params().initialise(Rng(1));
    Context ctx(table, table.dtype, 1);
    const auto x = harness::random_tensor(Shape{2, 3, 12, 12}, Rng(2), table.dtype);
    const harness::HostTensor logits(Shape{2, 3}, table.dtype);
    for (int i = 0; i < 3; ++i) model.classify(x, logits, ctx);
    const int64_t before = ctx.scratch().system_allocations();
    for (int i = 0; i < 10; ++i) model.classify(x, logits, ctx);
    EXPECT_EQ(ctx.scratch().system_allocations(), before);
  }
}

}  // namespace
}  // namespace fovea
