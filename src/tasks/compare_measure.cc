#include "tasks/compare_measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "attention/registry.h"
#include "core/convert.h"
#include "ops/pack_weights.h"
#include "tasks/param_sources.h"
#include "train/classification_step.h"

namespace fovea {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kMeasureSeconds = 1.0;

// Median milliseconds of at least three runs for about a second, after one that warms up (which counts when it is long).
template <class Run>
double median_ms(Run&& run) {
  std::vector<double> ms;
  double total = 0;
  const auto once = [&] {
    const auto start = Clock::now();
    run();
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    total += ms.back() / 1000;
  };
  once();
  if (total > 3 * kMeasureSeconds) return ms[0];
  ms.clear();
  total = 0;
  while (std::ssize(ms) < 3 || (total < kMeasureSeconds && std::ssize(ms) < 200)) once();
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

void fill_uniform(const Tensor& t, uint64_t tag) {
  const Rng rng(tag);
  for (int64_t i = 0; i < t.elements(); ++i) store_scalar(t, i, 3.4 * rng.uniform(static_cast<uint64_t>(i)) - 1.7);
}

double bytes_of(const Tensor& t) { return t.empty() ? 0 : static_cast<double>(t.bytes()); }

std::unique_ptr<Classifier> random_model(const ModelConfig& config, DType dtype) {
  auto model = std::make_unique<Classifier>(config);
  model->params().allocate(dtype, ParamStore::Gradients::kNo);
  model->params().initialise(Rng(1));
  return model;
}

struct Inference {
  double ms = 0, memory_mib = 0;
};

Inference measure_inference(const ModelConfig& config, int64_t batch, int64_t height, int64_t width, Context& ctx) {
  Classifier model(config);
  model.params().allocate_for_inference(ctx.dtype());
  RandomSource source{Rng(1)};
  pack_from(source, model.params(), ctx);
  Arena arena;
  const Tensor images = arena.take(Shape{batch, model.config().input.channels, height, width}, ctx.dtype());
  const Tensor logits = arena.take(Shape{batch, model.config().classes}, ctx.dtype());
  fill_uniform(images, 6);
  Inference r;
  r.ms = median_ms([&] {
    ctx.scratch().reset();
    model.classify(images, logits, ctx);
  });
  r.memory_mib = static_cast<double>(model.params().value_bytes() + model.params().packed_buffer().size() + ctx.scratch().peak() + arena.used()) / kMiB;
  return r;
}

// The same architecture built for images of another size: what has parameters for each place has more of them.
ModelConfig sized(ModelConfig config, int64_t height, int64_t width) {
  config.input.height = height;
  config.input.width = width;
  return config;
}

// The first stage's attention of a model, with its width.
struct FirstStage {
  AttentionSpec spec;
  AttentionConfig heads;
  FirstStage(const ModelConfig& c, int64_t height, int64_t width) : spec(parse_attention_stages(c.attention).front()) {
    heads.dim = c.dim;
    heads.heads = c.hierarchical() ? c.stage_heads.front() : c.heads;
    heads.head_dim = c.hierarchical() ? 0 : c.head_dim;
    heads.qkv_bias = c.qkv_bias;
    heads.qk_norm = c.qk_norm;
    heads.norm_epsilon = c.norm_epsilon;
    heads.max_tokens = height * width;
  }
};

}  // namespace

CompareCost measure_contender(const ModelConfig& config, int64_t batch, const ExecutionOptions& execution) {
  const KernelTable& table = kernel_table(execution.kernels);
  const int64_t height = config.input.height, width = config.input.width;
  CompareCost cost;
  {
    Context ctx(table, table.dtype, execution.threads);
    const Inference inference = measure_inference(config, batch, height, width, ctx);
    cost.ms_per_image = inference.ms / static_cast<double>(batch);
    cost.images_per_s = 1000 / cost.ms_per_image;
    cost.inference_memory_mib = inference.memory_mib;
  }
  const auto model = random_model(config, table.dtype);
  cost.parameters = model->params().count();
  cost.gflop = 1e-9 * model->flops(1, height, width);
  Context ctx(table, table.dtype, execution.threads);
  Arena arena;
  const Tensor images = arena.take(Shape{batch, config.input.channels, height, width}, table.dtype);
  fill_uniform(images, 7);
  std::vector<int32_t> labels;
  for (int64_t b = 0; b < batch; ++b) labels.push_back(static_cast<int32_t>(b % config.classes));
  ClassificationStep step(*model, StepConfig());
  for (uint64_t i = 0; i < 2; ++i) {
    ctx.scratch().reset();
    step.accumulate(images, labels.data(), {}, 1, Rng(7, i), ctx);
    step.update(1e-4, ctx);
  }
  // Values, gradients and AdamW's two moments are of one size.
  const double weights = 4 * bytes_of(model->params().values());
  cost.training_memory_mib = (weights + static_cast<double>(step.tape().arena().peak() + ctx.scratch().peak() + arena.used())) / kMiB;
  return cost;
}

std::vector<std::string> model_unsupported(const ModelConfig& config, int64_t height, int64_t width) {
  return Classifier(sized(config, height, width)).backbone().unsupported(height, width);
}

std::vector<std::string> attention_unsupported(const ModelConfig& config, int64_t height, int64_t width) {
  const FirstStage stage(config, height, width);
  ParamStore params;
  return make_attention(stage.spec, Scope(params), stage.heads)->unsupported({1, 0, height, width});
}

GrowthMeasurement measure_model_at(const ModelConfig& config, int64_t height, int64_t width, const ExecutionOptions& execution) {
  const KernelTable& table = kernel_table(execution.kernels);
  Context ctx(table, table.dtype, execution.threads);
  const Inference r = measure_inference(sized(config, height, width), 1, height, width, ctx);
  return {r.ms, r.memory_mib};
}

GrowthMeasurement measure_attention_at(const ModelConfig& config, int64_t height, int64_t width, const ExecutionOptions& execution) {
  const KernelTable& table = kernel_table(execution.kernels);
  const FirstStage stage(config, height, width);
  Context ctx(table, table.dtype, execution.threads);
  ParamStore params;
  const auto attention = make_attention(stage.spec, Scope(params), stage.heads);
  params.allocate(table.dtype, ParamStore::Gradients::kYes);
  params.initialise(Rng(1));
  const TokenGrid grid{1, 0, height, width};
  const Shape shape{1, grid.tokens(), stage.heads.dim};
  Arena arena;
  const Tensor x = arena.take(shape, table.dtype), y = arena.take(shape, table.dtype), dy = arena.take(shape, table.dtype),
               dx = arena.take(shape, table.dtype);
  fill_uniform(x, 4);
  fill_uniform(dy, 5);
  AttentionInputs in;
  in.x = x;
  in.grid = grid;
  Tape tape;
  GrowthMeasurement r;
  r.ms = median_ms([&] {
    ctx.scratch().reset();
    tape.clear();
    attention->forward(in, y, &tape, ctx);
    attention->backward(dy, AttentionGradients{dx, {}, {}}, tape, ctx);
  });
  r.memory_mib = static_cast<double>(tape.arena().peak() + ctx.scratch().peak() + arena.used()) / kMiB;
  return r;
}

std::vector<double> influence(const ModelConfig& config, int64_t block, int64_t height, int64_t width, int64_t query) {
  const KernelTable& table = kernel_table("reference");
  FirstStage stage(config, height, width);
  stage.heads.block = block;
  Context ctx(table, table.dtype, 1);
  ParamStore params;
  const auto attention = make_attention(stage.spec, Scope(params), stage.heads);
  params.allocate(table.dtype, ParamStore::Gradients::kYes);
  params.initialise(Rng(1));
  const TokenGrid grid{1, 0, height, width};
  const Shape shape{1, grid.tokens(), stage.heads.dim};
  Arena arena;
  const Tensor x = arena.take(shape, table.dtype), y = arena.take(shape, table.dtype), dy = arena.take(shape, table.dtype),
               dx = arena.take(shape, table.dtype);
  fill_uniform(x, 4);
  fill_uniform(dy, 5);
  for (int64_t i = 0; i < dy.elements(); ++i)
    if (i / stage.heads.dim != query) store_scalar(dy, i, 0);
  AttentionInputs in;
  in.x = x;
  in.grid = grid;
  Tape tape;
  attention->forward(in, y, &tape, ctx);
  attention->backward(dy, AttentionGradients{dx, {}, {}}, tape, ctx);
  std::vector<double> strength;
  double largest = 0;
  for (int64_t t = 0; t < grid.tokens(); ++t) {
    double sum = 0;
    for (int64_t c = 0; c < stage.heads.dim; ++c) {
      const double d = load_scalar(dx, t * stage.heads.dim + c);
      sum += d * d;
    }
    strength.push_back(std::sqrt(sum));
    if (t != query) largest = std::max(largest, strength.back());
  }
  // What is left of rounding, and of penalties that stand for a mask, is no influence.
  constexpr double kNothing = 1e-6;
  for (double& s : strength) s = largest > 0 && s > kNothing * largest ? std::min(1.0, s / largest) : 0;
  return strength;
}

}  // namespace fovea
