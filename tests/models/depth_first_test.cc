// The two ways to run blocks in inference: layer by layer over a whole map, and depth first over its parts.
#include <gtest/gtest.h>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"
#include "heads/classifier.h"
#include "ops/pack_weights.h"

namespace fovea {
namespace {

ModelConfig hierarchical(const std::string& attention) {
  ModelConfig c;
  c.name = "small";
  c.family = "swin";
  c.attention = attention;
  c.input.height = c.input.width = 56;
  c.classes = 10;
  c.patch = 2;
  c.dim = 32;
  c.depths = {2, 2, 2};
  c.stage_heads = {2, 2, 4};
  c.mlp_ratio = 2;
  c.norm_epsilon = 1e-5;
  return c;
}

// A norm for each map, windows that stay, and whole patches only.
ModelConfig detector() {
  ModelConfig c = hierarchical("window:size=6:rule=mmdet/window:size=6:rule=mmdet:shift=none");
  c.pyramid_norms = true;
  c.patch_rest = "drop";
  return c;
}

ModelConfig swin_v2() {
  ModelConfig c = hierarchical("window_v2:size=4");
  c.swin_version = 2;
  return c;
}

ModelConfig cswin() {
  ModelConfig c = hierarchical("cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:branches=1");
  c.family = "cswin";
  c.patch = 4;
  return c;
}

ModelConfig vit(const std::string& attention, double layer_scale = 0) {
  ModelConfig c = hierarchical(attention);
  c.family = "vit";
  c.patch = 4;
  c.depth = 3;
  c.heads = 2;
  c.layer_scale = layer_scale;
  return c;
}

// What DINOv2 and CLIP have besides.
ModelConfig gated_vit() {
  ModelConfig c = vit("global", 0.5);
  c.activation = "swiglu";
  c.register_tokens = 3;
  c.register_positions = false;
  return c;
}

ModelConfig pre_normed_vit() {
  ModelConfig c = vit("global");
  c.pre_norm = true;
  c.activation = "quick_gelu";
  return c;
}

// Branches side by side, whose scores have a bias of each its own; norms behind branches; and attention that pools.
ModelConfig parallel_vit(const std::string& attention) {
  ModelConfig c = vit(attention, 0.5);
  c.parallel = 2;
  c.class_token = attention == "global";
  c.pool = "avg";
  return c;
}

ModelConfig res_post_vit() {
  ModelConfig c = vit("global");
  c.block_norm = "res_post";
  return c;
}

ModelConfig pooling_vit() {
  ModelConfig c = vit("global");
  c.pool = "map";
  c.activation = "gelu_tanh";
  return c;
}

struct Input {
  int64_t batch, height, width;
};

enum class Weights : uint8_t { kPacked, kAsTheyAre };  // the latter: between the epochs of a training run

class Run {
 public:
  Run(const ModelConfig& config, const KernelTable& table, ProductType type, Input in, Weights weights)
      : model_(config), table_(table), type_(weights == Weights::kAsTheyAre ? type : ProductType::kOwn), images_(harness::random_tensor(Shape{in.batch, 3, in.height, in.width}, Rng(2), table.dtype)) {
    model_.params().allocate(table.dtype, ParamStore::Gradients::kNo);
    model_.params().initialise(Rng(1));
    Context ctx(table, table.dtype, 1);
    if (weights == Weights::kPacked && (type != ProductType::kOwn || table.dtype == DType::kF32)) pack_weights(model_.params(), ctx, type);
  }
  harness::HostTensor logits(bool depth_first, int threads) {
    Context ctx(table_, table_.dtype, threads);
    ctx.set_depth_first(depth_first);
    ctx.set_products(type_);
    harness::HostTensor y(Shape{images_.shape[0], model_.config().classes}, table_.dtype);
    for (int i = 0; i < 2; ++i) model_.classify(images_, y, ctx);  // from memory in use as well as from fresh
    EXPECT_EQ(ctx.scratch().used(), 0u);
    return y;
  }

 private:
  Classifier model_;
  const KernelTable& table_;
  ProductType type_;
  harness::HostTensor images_;
};

// Rows of a product, of a norm and of a group's softmax are computed alone, so cutting changes no bit of them. Features of a whole
// sequence are summed in pieces that depend on how many sequences there are.
void expect_agreement(const ModelConfig& config, Input in, const KernelTable& table, ProductType type, Weights weights = Weights::kPacked) {
  SCOPED_TRACE(fmt::format("{} {} {}x{}x{} {}", config.family, config.attention, in.batch, in.height, in.width, table.name));
  Run run(config, table, type, in, weights);
  const harness::HostTensor plain = run.logits(false, 1);
  harness::expect_same_bits(run.logits(false, 2), plain, "2 threads, plain");
  const bool by_rows = config.attention.find("performer") == std::string::npos;
  for (const int threads : {1, 2, 3, 5}) {
    const harness::HostTensor y = run.logits(true, threads);
    const std::string what = fmt::format("{} threads", threads);
    by_rows ? harness::expect_same_bits(y, plain, what) : harness::expect_close(y, plain, harness::Tolerance::relative(2e-6), what);
  }
}

TEST(DepthFirst, AgreesWithThePlainExecutorForEveryBackboneAndSize) {
  for (const ModelConfig& config : {hierarchical("window:size=7"), hierarchical("window:size=4:rule=microsoft"), hierarchical("window:size=5:rule=torchvision"),
                                    hierarchical("window:size=5:pretrained_window=3:resample=geometric"), hierarchical("window:size=8:rule=mmdet:pretrained_window=7:resample=bicubic"), detector(),
                                    swin_v2(), cswin(), vit("global"), vit("global", 0.5), gated_vit(), pre_normed_vit(), parallel_vit("global"), parallel_vit("window:size=4"), res_post_vit(), pooling_vit(), vit("window:size=4"), hierarchical("window/sparse/global"),
                                    hierarchical("window,global"), hierarchical("performer/linformer/longformer"), hierarchical("local/sampled/window+global")})
    for (const Input in : {Input{1, 56, 56}, Input{5, 56, 56}, Input{2, 50, 82}, Input{1, 112, 70}}) {
      if (config.attention.find("linformer") != std::string::npos && in.height != 56) continue;  // as long as it was built
      expect_agreement(config, in, kernel_table("auto"), ProductType::kOwn);
    }
}

TEST(DepthFirst, AgreesOnEveryTableAndType) {
  for (const ModelConfig& config : {hierarchical("window:size=7"), swin_v2(), vit("global"), gated_vit(), parallel_vit("window:size=4"), res_post_vit(), pooling_vit()}) {
    for (const KernelTable* table : harness::f32_tables())
      for (const ProductType type : {ProductType::kOwn, ProductType::kBF16, ProductType::kInt8}) expect_agreement(config, {3, 56, 50}, *table, type);
    expect_agreement(config, {2, 28, 42}, kernel_table("reference"), ProductType::kOwn);
  }
}

// One image whose tokens all meet: threads share out its rows.
TEST(DepthFirst, AgreesInStepsOnEveryTableAndType) {
  for (const ModelConfig& config : {cswin(), vit("global", 0.5)})
    for (const KernelTable* table : harness::f32_tables())
      for (const ProductType type : {ProductType::kOwn, ProductType::kBF16, ProductType::kInt8}) expect_agreement(config, {1, 56, 56}, *table, type);
}

// Images of their own for each thread, as many for each or, of many, one more for some.
TEST(DepthFirst, AgreesWithSeveralImagesForEachThread) {
  for (const ModelConfig& config : {hierarchical("window:size=7"), swin_v2(), cswin(), vit("global"), parallel_vit("window:size=4")})
    for (const Input in : {Input{6, 56, 50}, Input{17, 28, 28}})
      for (const ProductType type : {ProductType::kOwn, ProductType::kInt8}) expect_agreement(config, in, kernel_table("auto"), type);
  expect_agreement(hierarchical("window:size=7"), {6, 56, 56}, kernel_table("auto"), ProductType::kBF16, Weights::kAsTheyAre);
}

// Windows of first and last lines: enough of both to be multiplied where they stand, and too few.
TEST(DepthFirst, AgreesWhereWindowsWrapAround) {
  for (const ModelConfig& config : {hierarchical("window:size=7"), swin_v2(), detector()})
    for (const Input in : {Input{1, 112, 70}, Input{2, 98, 42}})
      for (const ProductType type : {ProductType::kOwn, ProductType::kBF16, ProductType::kInt8}) expect_agreement(config, in, kernel_table("auto"), type);
}

TEST(DepthFirst, AgreesInBf16WithWeightsThatAreNotPacked) {
  for (const ModelConfig& config : {hierarchical("window:size=7"), cswin(), vit("global")})
    for (const Input in : {Input{1, 112, 70}, Input{5, 56, 56}}) expect_agreement(config, in, kernel_table("auto"), ProductType::kBF16, Weights::kAsTheyAre);
}

TEST(DepthFirst, ASteadyInferenceAllocatesNothing) {
  Classifier model(hierarchical("window:size=7"));
  const KernelTable& table = kernel_table("auto");
  model.params().allocate(table.dtype, ParamStore::Gradients::kNo);
  model.params().initialise(Rng(1));
  for (const int64_t images : {3, 4}) {  // which two threads share out by parts and by images
    Context ctx(table, table.dtype, 2);
    const auto x = harness::random_tensor(Shape{images, 3, 56, 56}, Rng(2), table.dtype);
    const harness::HostTensor logits(Shape{images, 10}, table.dtype);
    const auto allocations = [&] { return ctx.scratch().system_allocations() + ctx.worker(0).scratch().system_allocations() + ctx.worker(1).scratch().system_allocations(); };
    for (int i = 0; i < 3; ++i) model.classify(x, logits, ctx);
    const int64_t before = allocations();
    EXPECT_GT(ctx.worker(1).scratch().system_allocations(), 0) << "nothing ran depth first";
    for (int i = 0; i < 10; ++i) model.classify(x, logits, ctx);
    EXPECT_EQ(allocations(), before);
  }
}

}  // namespace
}  // namespace fovea
