#include "fovea/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>

#include "attention/registry.h"
#include "core/convert.h"
#include "kernels/cpu/gemm_bench.h"
#include "kernels/cpu/peak.h"
#include "ops/pack_weights.h"
#include "tasks/load_model.h"
#include "tasks/this_process.h"
#include "train/classification_step.h"
#include "weights/safetensors.h"

namespace fovea {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMinimumRuns = 5, kMaximumRuns = 1000;

// Milliseconds of runs, and the peak in turn with them.
struct Measured {
  double ms_median = 0, ms_min = 0;
  int64_t runs = 0;
  double peak_gflops = 0;  // 0: the table does not compute in f32
};

// At least five runs, after two that warm up, for about `seconds`, with a look at the peak wherever a few milliseconds have passed.
Measured measure(double seconds, Context& ctx, ProductType type, const std::function<void()>& run) {
  constexpr auto kBetweenPeaks = std::chrono::milliseconds(4);
  PeakMeter peak(isa_of(ctx.kernels()), type, ctx.pool());
  run();
  run();
  std::vector<double> ms;
  const auto begin = Clock::now();
  Clock::time_point start = begin, next_peak = begin;
  while (std::ssize(ms) < kMinimumRuns ||
         (std::chrono::duration<double>(start - begin).count() < seconds && std::ssize(ms) < kMaximumRuns)) {
    if (start >= next_peak) {
      peak.burst();
      start = Clock::now();
      next_peak = start + kBetweenPeaks;
    }
    run();
    const auto end = Clock::now();
    ms.push_back(std::chrono::duration<double, std::milli>(end - start).count());
    start = end;
  }
  return {median(ms), *std::min_element(ms.begin(), ms.end()), std::ssize(ms), ctx.kernels().dtype == DType::kF32 ? peak.median_gflops() : 0};
}

const KernelTable& table_of(const ExecutionOptions& execution) {
  const KernelTable& table = kernel_table(execution.kernels);
  require(table.dtype != DType::kDual, "the kernels '{}' are for tests of derivatives only", table.name);
  return table;
}

void fill_normal(const Tensor& t, uint64_t tag) {
  const Rng rng = Rng(tag);
  for (int64_t i = 0; i < t.elements(); ++i) {
    const double x = rng.uniform(static_cast<uint64_t>(i)) * 3.4 - 1.7;  // of about unit variance
    if (t.dtype == DType::kF64) t.as<double>()[i] = x;
    else t.as<float>()[i] = static_cast<float>(x);
  }
}

// The tensor of that name and shape, in t's dtype.
void fill_from(const WeightFile& file, const std::string& name, const Tensor& t) {
  const WeightTensor& from = file.at(name);
  require(from.elements() == t.elements(), "'{}': tensor '{}' has shape {}, expected {}", file.path(), name, from.shape, t.shape);
  if (t.dtype == DType::kF64) from.read(t.as<double>());
  else from.read(t.as<float>());
}

void finish(BenchResult& r, const Context& ctx, const Measured& m) {
  r.peak_memory_mib = peak_memory_mib();
  r.threads = ctx.pool().threads();
  r.kernels = ctx.kernels().name;
  r.runs = m.runs;
  r.ms_median = m.ms_median;
  r.ms_min = m.ms_min;
  r.ms_per_image = r.ms_median / static_cast<double>(r.batch);
  r.images_per_s = 1000 / r.ms_per_image;
  r.gflops = r.gflop / (r.ms_median / 1000);
  r.peak_gflops = m.peak_gflops;
  r.percent_of_peak = m.peak_gflops > 0 ? 100 * r.gflops / m.peak_gflops : 0;
}

// `most`: tokens or pixels of one side (a long sequence is a map of one row).
void require_sizes(const BenchOptions& o, int64_t most) {
  constexpr int64_t kMostArea = int64_t{16384} * 16384;
  require(o.batch > 0 && o.batch <= 65536, "--batch {}: expected 1 to 65536", o.batch);
  require(o.height >= 0 && o.width >= 0 && o.height <= most && o.width <= most && o.height * o.width <= kMostArea, "--size {}x{}: expected 1 to {}",
          o.height, o.width, most);
}

// The floats of A in the form that a product of its type multiplies.
void round_rows(GemmArgs& g, Arena& arena) {
  const auto* floats = static_cast<const float*>(g.a);
  if (g.type == ProductType::kBF16) {
    auto* rounded = arena.take<uint16_t>(g.m * g.k);
    for (int64_t i = 0; i < g.m * g.k; ++i) rounded[i] = to_bf16(floats[i]);
    g.a = rounded;
    g.a_bf16 = true;
    return;
  }
  auto* bytes = arena.take<uint8_t>(g.m * g.k);
  auto* scale = arena.take<float>(g.m);
  for (int64_t i = 0; i < g.m; ++i, floats += g.k) {
    float greatest = 0;
    for (int64_t k = 0; k < g.k; ++k) greatest = std::max(greatest, std::fabs(floats[k]));
    scale[i] = greatest / 127;
    for (int64_t k = 0; k < g.k; ++k) bytes[i * g.k + k] = static_cast<uint8_t>(std::lround(floats[k] * 127 / greatest) + 128);
  }
  g.a = bytes;
  g.a_uint8 = true;
  g.a_scale = scale;
}

}  // namespace

MachineBench bench_machine(const ExecutionOptions& execution) {
  const KernelTable& table = table_of(execution);
  const ThreadPool pool(execution.threads);
  const MachinePeak peak = measure_peak(isa_of(table), pool.threads());
  return {pool.threads(), peak.f32_gflops, peak.bf16_gflops, peak.int8_gops, peak.memory_gbs, peak.isa};
}

GemmBench bench_gemm(const ExecutionOptions& execution, int64_t batch, const std::string& dtype) {
  const ProductType type = product_type(dtype);
  require(batch > 0 && batch <= 1024, "--batch {}: expected 1 to 1024", batch);
  const KernelTable& table = table_of(execution);
  require(table.dtype == DType::kF32, "the kernels '{}' are an oracle and never fast; choose one of the cpu tables", table.name);
  Context ctx(table, table.dtype, execution.threads);
  GemmBench result;
  result.threads = ctx.pool().threads();
  result.kernels = table.name;
  result.dtype = name_of(type);
  warm_up(ctx.pool());
  for (const GemmShape& shape : bench_gemm_shapes(batch)) {
    // As inference does it: weights packed once, the bias fused, activations rounded before; and once more from floats that the product rounds.
    ArenaScope scope(ctx.scratch());
    const Tensor a = ctx.scratch().take(Shape{shape.m, shape.k}, table.dtype), b = ctx.scratch().take(Shape{shape.n, shape.k}, table.dtype);
    const Tensor c = ctx.scratch().take(Shape{shape.m, shape.n}, table.dtype), bias = ctx.scratch().take(Shape{shape.n}, table.dtype);
    fill_normal(a, 1);
    fill_normal(b, 2);
    fill_normal(bias, 3);
    void* packed = ctx.scratch().take(table.gemm_packed_bytes(type, shape.k, shape.n));
    table.gemm_pack(type, shape.k, shape.n, b.data, shape.k, true, packed, ctx);
    GemmArgs g;
    g.m = shape.m;
    g.k = shape.k;
    g.n = shape.n;
    g.a = a.data;
    g.a_stride = shape.k;
    g.b_packed = packed;
    g.type = type;
    g.bias = bias.data;
    g.c = c.data;
    g.c_stride = shape.n;
    GemmBench::Row row{shape.m, shape.k, shape.n};
    const auto percent = [&] {
      const Measured measured = measure(0.08, ctx, type, [&] { table.gemm(g, ctx); });
      row.gflops = 2e-6 * static_cast<double>(shape.m * shape.k * shape.n) / measured.ms_median;
      return measured.peak_gflops > 0 ? 100 * row.gflops / measured.peak_gflops : 0.0;
    };
    if (type != ProductType::kOwn) {
      row.percent_from_floats = percent();
      round_rows(g, ctx.scratch());
    }
    row.percent_of_peak = percent();
    result.rows.push_back(row);
  }
  const auto geometric_mean = [&](double GemmBench::Row::*value) {
    double logarithms = 0;
    for (const GemmBench::Row& row : result.rows) logarithms += std::log(row.*value);
    return std::exp(logarithms / static_cast<double>(result.rows.size()));
  };
  result.geomean_percent_of_peak = geometric_mean(&GemmBench::Row::percent_of_peak);
  if (type != ProductType::kOwn) result.geomean_percent_from_floats = geometric_mean(&GemmBench::Row::percent_from_floats);
  return result;
}

BenchResult bench_attention(const std::string& spec, const BenchOptions& options) {
  const ProductType type = product_type(options.dtype);
  require_sizes(options, int64_t{1} << 24);
  require(options.pass != BenchOptions::Pass::kTrain, "an attention has no training step of its own; use --backward");
  require(options.heads > 0 && options.heads <= 1024 && options.head_dim > 0 && options.head_dim <= 1024,
          "{} heads of {} channels: expected 1 to 1024 of both", options.heads, options.head_dim);
  require(options.tokens >= 0 && options.tokens <= int64_t{16384} * 16384, "--tokens {} is out of range", options.tokens);
  BenchResult r;
  r.batch = options.batch;
  if (options.height > 0 && options.width > 0) {
    r.height = options.height;
    r.width = options.width;
  } else {
    const double tokens = options.tokens > 0 ? static_cast<double>(options.tokens) : 3136;  // the map of Swin's first stage
    r.height = r.width = std::max<int64_t>(1, std::llround(std::sqrt(tokens)));
  }
  const KernelTable& table = table_of(options.execution);
  Context ctx(table, table.dtype, options.execution.threads);
  const bool backward = options.pass == BenchOptions::Pass::kBackward;
  if (backward) ctx.set_products(training_product_type(options.dtype));

  ParamStore params;
  AttentionConfig config;
  config.heads = options.heads;
  config.head_dim = options.head_dim;
  config.dim = options.heads * options.head_dim;
  config.max_tokens = r.height * r.width;
  const AttentionSpec parsed = parse_attention(spec);
  const auto attention = make_attention(parsed, Scope(params), config);
  const TokenGrid grid{options.batch, 0, r.height, r.width};
  const auto reasons = attention->unsupported(grid);
  require(reasons.empty(), "attention '{}' cannot run here: {}", spec, fmt::join(reasons, "; "));
  params.allocate(table.dtype, backward ? ParamStore::Gradients::kYes : ParamStore::Gradients::kNo);
  params.initialise(Rng(1));
  std::optional<WeightFile> given;
  if (!options.tensors.empty()) {
    given = open_weights(options.tensors);
    for (const Param& p : params.params()) fill_from(*given, p.name, p.value);
  }
  if (!backward) pack_weights(params, ctx, type);

  const Shape shape{grid.batch, grid.tokens(), config.dim};
  Arena arena;
  const Tensor x = arena.take(shape, table.dtype), y = arena.take(shape, table.dtype);
  fill_normal(x, 4);
  if (given) fill_from(*given, "x", x);
  AttentionInputs in;
  in.x = x;
  in.grid = grid;
  Tensor dy, dx;
  if (backward) {
    dy = arena.take(shape, table.dtype);
    dx = arena.take(shape, table.dtype);
    fill_normal(dy, 5);
    if (given) fill_from(*given, "dy", dy);
  }
  r.name = parsed.str();
  r.dtype = name_of(type);
  r.tokens = grid.tokens();
  r.pass = backward ? "forward+backward" : "forward";
  // Each product of the forward has two in the backward.
  r.gflop = 1e-9 * attention->flops(grid) * (backward ? 3 : 1);
  Tape tape;
  const auto pass = [&] {
    ctx.scratch().reset();
    if (!backward) return attention->forward(in, y, nullptr, ctx);
    tape.clear();
    attention->forward(in, y, &tape, ctx);
    attention->backward(dy, AttentionGradients{dx, {}, {}}, tape, ctx);
  };
  if (!options.write.empty()) {
    pass();
    std::vector<TensorToWrite> results = {{"y", y.dtype, y.shape, y.data}};
    if (backward) results.push_back({"dx", dx.dtype, dx.shape, dx.data});
    write_safetensors(options.write, results, {});
  }
  warm_up(ctx.pool());
  finish(r, ctx, measure(options.seconds, ctx, type, pass));
  return r;
}

BenchResult bench_model(const std::string& model, const BenchOptions& options) {
  require_sizes(options, 16384);
  require(options.pass != BenchOptions::Pass::kBackward, "a whole model is measured forward or as a training step (--train)");
  const KernelTable& table = table_of(options.execution);
  Context ctx(table, table.dtype, options.execution.threads);
  const bool train = options.pass == BenchOptions::Pass::kTrain;
  LoadOptions load;
  load.set = options.set;
  load.height = options.height;
  load.width = options.width;
  load.dtype = options.dtype;
  const auto start = Clock::now();
  const LoadedModel loaded = train ? load_model(model, load, table.dtype) : load_for_inference(model, load, ctx);
  const ProductType type = train ? training_product_type(options.dtype) : loaded.type;
  if (train) ctx.set_products(type);
  const double load_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  Classifier& classifier = *loaded.classifier;
  const ModelConfig& config = classifier.config();

  BenchResult r;
  r.load_ms = load_ms;
  r.name = config.name;
  r.dtype = name_of(type);
  r.batch = options.batch;
  r.height = loaded.height;
  r.width = loaded.width;
  r.pass = train ? "train" : "forward";
  r.gflop = 1e-9 * classifier.flops(r.batch, r.height, r.width) * (train ? 3 : 1);

  Arena arena;
  const Tensor images = arena.take(Shape{r.batch, config.input.channels, r.height, r.width}, table.dtype);
  const Tensor logits = arena.take(Shape{r.batch, config.classes}, table.dtype);
  fill_normal(images, 6);
  Measured measured;
  warm_up(ctx.pool());
  if (train) {
    std::vector<int32_t> labels;
    for (int64_t b = 0; b < r.batch; ++b) labels.push_back(static_cast<int32_t>(b % config.classes));
    ClassificationStep step(classifier, StepConfig{});
    uint64_t number = 0;
    measured = measure(options.seconds, ctx, type, [&] {
      ctx.scratch().reset();
      const StepResult result = step.accumulate(images, labels.data(), {}, 1, Rng(7, number++), ctx);
      check(std::isfinite(result.loss), "the loss of a training step is {}", result.loss);
      step.update(1e-4, ctx);
    });
  } else {
    measured = measure(options.seconds, ctx, type, [&] {
      ctx.scratch().reset();
      classifier.classify(images, logits, ctx);
    });
    for (int64_t i = 0; i < logits.elements(); ++i) check(std::isfinite(load_scalar(logits, i)), "the model gives {}", load_scalar(logits, i));
  }
  r.tokens = classifier.backbone().forward(images.slice(0, 1), nullptr, ctx).grid.tokens();
  finish(r, ctx, measured);
  return r;
}

}  // namespace fovea
