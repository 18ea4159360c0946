// One training step: memory, threads, accumulation, heads, targets, and what happens to numbers that are none.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include "core/convert.h"
#include "harness/expect.h"
#include "train/classification_step.h"

namespace {

std::atomic<int64_t> large_allocations{0};
constexpr size_t kLarge = 1024;  // bytes; below lie names of cached tables and lists of feature maps

}  // namespace

// The sanitizers bring operators of their own; there only the arenas are watched.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FOVEA_OWN_OPERATORS
#endif
#endif

#ifndef FOVEA_OWN_OPERATORS
void* operator new(size_t bytes) {
  if (bytes >= kLarge) ++large_allocations;
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
#endif

namespace fovea {
namespace {

using harness::HostTensor;

ModelConfig small_swin() {
  ModelConfig c;
  c.name = "small";
  c.family = "swin";
  c.attention = "window:size=4";
  c.input.height = 18;
  c.input.width = 20;
  c.classes = 5;
  c.patch = 2;
  c.dim = 8;
  c.depths = {2, 2};
  c.stage_heads = {2, 4};
  c.dropout = 0.1;
  c.drop_path = 0.2;
  return c;
}

ModelConfig small_swin_v2() {
  ModelConfig c = small_swin();
  c.swin_version = 2;
  c.attention = "window_v2:size=4";
  return c;
}

ModelConfig small_cswin() {
  ModelConfig c = small_swin();
  c.family = "cswin";
  c.attention = "cross_shaped:stripe=2/cross_shaped:branches=1";
  c.patch = 4;
  return c;
}

ModelConfig small_deit() {
  ModelConfig c;
  c.name = "small";
  c.input.height = c.input.width = 16;
  c.classes = 5;
  c.patch = 4;
  c.dim = 16;
  c.depth = 2;
  c.heads = 2;
  c.distillation_token = true;
  return c;
}

// A model with a step, and a batch of images with labels.
struct Trial {
  Context ctx;
  Classifier model;
  ClassificationStep step;
  HostTensor images;
  std::vector<int32_t> labels;

  Trial(const KernelTable& table, const ModelConfig& config, int threads = 1, int64_t batch = 6)
      : ctx(table, table.dtype, threads), model(config), step(prepare(model, table.dtype), StepConfig{0.1, 0.5, {}}) {
    images = harness::random_tensor(Shape{batch, 3, config.input.height, config.input.width}, Rng(5), table.dtype);
    for (int64_t i = 0; i < batch; ++i) labels.push_back(static_cast<int32_t>(i * 2 % config.classes));
  }
  static Classifier& prepare(Classifier& model, DType dtype) {
    model.params().allocate(dtype, ParamStore::Gradients::kNo);
    model.params().initialise(Rng(1));
    return model;
  }
  StepResult accumulate(int64_t begin, int64_t count, double weight, uint64_t seed = 3) {
    return step.accumulate(images.slice(begin, count), labels.data() + begin, {}, weight, Rng(seed), ctx);
  }
  StepResult run(uint64_t seed) {
    const StepResult r = accumulate(0, images.dim(0), 1, seed);
    step.update(1e-3, ctx);
    return r;
  }
};

// The families' own attentions, and every mechanism and some combinations in one of them.
TEST(TrainingStep, TakesNoMemoryOnceWarm) {
  std::vector<ModelConfig> configs = {small_swin(), small_swin_v2(), small_cswin(), small_deit()};
  for (const AttentionKind& kind : attention_kinds()) {
    configs.push_back(kind.traits.prefix ? small_deit() : small_swin());
    configs.back().attention = kind.name;
  }
  for (const char* spec : {"window:size=2+sparse", "global,window:size=2+local:window=3"}) {
    configs.push_back(small_deit());
    configs.back().attention = spec;
  }
  for (const ModelConfig& config : configs) {
    SCOPED_TRACE(config.attention);
    Trial s(kernel_table("auto"), config, 2);
    for (uint64_t i = 0; i < 3; ++i) s.run(i);
    const int64_t tape = s.step.tape().arena().system_allocations(), scratch = s.ctx.scratch().system_allocations();
    const int64_t before = large_allocations;
    for (uint64_t i = 3; i < 8; ++i) s.run(i);
    EXPECT_EQ(large_allocations, before) << config.family;
    EXPECT_EQ(s.step.tape().arena().system_allocations(), tape) << config.family;
    EXPECT_EQ(s.ctx.scratch().system_allocations(), scratch) << config.family;
    EXPECT_EQ(s.ctx.scratch().used(), 0u) << config.family;
  }
}

TEST(TrainingStep, GivesTheSameBitsForAnyNumberOfThreads) {
  harness::for_each_table([](const KernelTable& table) {
    Trial one(table, small_swin(), 1);
    for (uint64_t i = 0; i < 3; ++i) one.run(i);
    for (const int threads : {2, 3}) {
      Trial other(table, small_swin(), threads);
      for (uint64_t i = 0; i < 3; ++i) other.run(i);
      harness::expect_same_bits(other.model.params().values(), one.model.params().values(), fmt::format("{} threads", threads));
      harness::expect_same_bits(other.step.optimizer().second_moment(), one.step.optimizer().second_moment(), fmt::format("{} threads", threads));
    }
  });
}

TEST(TrainingStep, RandomNumbersComeFromTheGeneratorAlone) {
  Trial a(kernel_table("auto"), small_swin()), b(kernel_table("auto"), small_swin());
  b.accumulate(0, 6, 1, 9);
  b.model.params().zero_grads();
  EXPECT_EQ(a.accumulate(0, 6, 1, 7).loss, b.accumulate(0, 6, 1, 7).loss);
  EXPECT_NE(a.accumulate(0, 6, 1, 7).loss, b.accumulate(0, 6, 1, 8).loss);
}

TEST(TrainingStep, TwoHalvesEqualTheWhole) {
  ModelConfig config = small_swin();
  config.dropout = config.drop_path = 0;
  harness::for_each_table([&](const KernelTable& table) {
    Trial whole(table, config), halves(table, config);
    const StepResult all = whole.accumulate(0, 6, 1), first = halves.accumulate(0, 3, 0.5), second = halves.accumulate(3, 3, 0.5);
    const bool exact = table.dtype == DType::kF64;
    EXPECT_NEAR((first.loss + second.loss) / 2, all.loss, exact ? 1e-12 : 1e-5);
    EXPECT_EQ(first.correct + second.correct, all.correct);
    harness::expect_close(halves.model.params().grads(), whole.model.params().grads(), harness::Tolerance::relative(exact ? 1e-12 : 1e-5), "gradients");
  });
}

TEST(TrainingStep, AnUpdateClearsTheGradientsAndClips) {
  Trial s(kernel_table("reference"), small_swin());
  s.accumulate(0, 6, 1);
  const double norm = gradient_norm(s.model.params(), s.ctx);
  ASSERT_GT(norm, 0.5);  // so that clipping to 0.5 shows
  const HostTensor gradient = harness::copy_of(s.model.params().grads());
  EXPECT_EQ(s.step.update(1e-3, s.ctx), norm);
  harness::expect_zero(s.model.params().grads(), 0, "gradients");
  const std::vector<double> m = harness::to_doubles(s.step.optimizer().first_moment());
  const std::vector<double> g = harness::to_doubles(gradient);
  for (size_t i = 0; i < m.size(); ++i) EXPECT_NEAR(m[i], 0.1 * g[i] * 0.5 / (norm + 1e-6), 1e-15);
}

TEST(TrainingStep, OneHotSoftTargetsAreLabels) {
  Trial a(kernel_table("reference"), small_deit()), b(kernel_table("reference"), small_deit());
  HostTensor targets(Shape{6, 5}, DType::kF64);
  for (int64_t i = 0; i < 6; ++i) store_scalar(targets, i * 5 + b.labels[static_cast<size_t>(i)], 1);
  const StepResult hard = a.accumulate(0, 6, 1), soft = b.step.accumulate(b.images, nullptr, targets, 1, Rng(3), b.ctx);
  EXPECT_NEAR(soft.loss, hard.loss, 1e-14);
  EXPECT_EQ(soft.correct, 0);
  harness::expect_close(b.model.params().grads(), a.model.params().grads(), harness::Tolerance::relative(1e-13), "gradients");
}

TEST(TrainingStep, TheDistilledLossIsTheMeanOfBothHeads) {
  Trial s(kernel_table("reference"), small_deit());
  const StepResult r = s.accumulate(0, 6, 1);
  ArenaScope scope(s.ctx.scratch());
  const Classifier::Output out = s.model.forward(s.images, nullptr, s.ctx);
  double smooth = 0, plain = 0;
  for (const Tensor& logits : out.logits)
    for (int64_t i = 0; i < 6; ++i) {
      double sum = 0, mean = 0;
      for (int64_t c = 0; c < 5; ++c) sum += std::exp(load_scalar(logits, i * 5 + c));
      for (int64_t c = 0; c < 5; ++c) mean += (std::log(sum) - load_scalar(logits, i * 5 + c)) / 5;
      const double own = std::log(sum) - load_scalar(logits, i * 5 + s.labels[static_cast<size_t>(i)]);
      smooth += (0.9 * own + 0.1 * mean) / 12;
      plain += own / 12;
    }
  EXPECT_NEAR(r.loss, smooth, 1e-12);
  EXPECT_NEAR(r.cross_entropy, plain, 1e-12);
}

TEST(TrainingStep, LeavesTheModelAloneWhenGradientsAreNoNumbers) {
  harness::for_each_table([](const KernelTable& table) {
    Trial s(table, small_swin());
    s.run(0);
    const HostTensor before = harness::copy_of(s.model.params().values());
    store_scalar(s.images, 77, NAN);
    EXPECT_TRUE(std::isnan(s.accumulate(0, 6, 1).loss));
    EXPECT_FALSE(std::isfinite(s.step.update(1e-3, s.ctx)));
    harness::expect_same_bits(s.model.params().values(), before, "weights");
    EXPECT_EQ(s.step.optimizer().steps(), 1);
  });
}

TEST(ArgmaxRows, TakesTheFirstOfEqualsAndRefusesNaN) {
  const HostTensor logits = harness::tensor_of(Shape{4, 3}, DType::kF32, {1, 3, 3, -1, -2, -3, 0, NAN, 1, INFINITY, 2, -INFINITY});
  int32_t index[4];
  argmax_rows(logits, index);
  EXPECT_EQ(index[0], 1);
  EXPECT_EQ(index[1], 0);
  EXPECT_EQ(index[2], -1);
  EXPECT_EQ(index[3], 0);
}

}  // namespace
}  // namespace fovea
