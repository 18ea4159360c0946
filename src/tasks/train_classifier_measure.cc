#include "tasks/train_classifier_measure.h"

#include <chrono>

#include "tasks/load_model.h"
#include "tasks/this_process.h"
#include "tasks/train_classifier_setup.h"
#include "tasks/train_classifier_validation.h"
#include "train/classification_step.h"

namespace fovea {

namespace {

using Clock = std::chrono::steady_clock;

// Time of one validation batch: the second of two, so that packing and first uses do not count.
double validation_seconds(const RunConfig& run, const DataSplits& data, Classifier& model, Context& ctx) {
  Loader loader(data.val, validation_loader_options(run, nullptr));
  double seconds = 0;
  int64_t done = 0;
  auto begin = Clock::now();
  Validation unused;
  validate(
      model, loader,
      [&](int64_t) {
        seconds = seconds_since(begin);
        begin = Clock::now();
        return ++done == 2;
      },
      unused, ctx);
  return seconds;
}

}  // namespace

double MeasuredCost::seconds_per_epoch(const RunConfig& run) const {
  const double validation_batches = static_cast<double>((run.val_images + run.options.batch - 1) / run.options.batch);
  return static_cast<double>(run.steps_per_epoch * run.options.accumulate) * seconds_per_batch + validation_batches * seconds_per_validation_batch;
}

MeasuredCost measure_cost(const RunConfig& run, const DataSplits& data, std::shared_ptr<ImageCache> cache, int threads) {
  // The first batches fill memory and come out of the loader's queue without waiting, so they do not count.
  constexpr int64_t kWarmUp = 4, kLeast = 3;
  constexpr double kEnough = 1.5, kPatience = 10;  // seconds: of what counts, of all
  const KernelTable& table = kernel_table(run.kernels);
  Context ctx(table, table.dtype, threads);
  ctx.set_products(training_product_type(run.options.dtype));
  RunConfig from_scratch = run;
  from_scratch.options.init.clear();
  const auto model = initial_model(from_scratch, table.dtype, ctx);
  ClassificationStep step(*model, StepConfig());
  MeasuredCost cost;
  cost.parameters = model->params().count();
  cost.batch_gflop = 3e-9 * model->flops(run.options.batch, run.model.input.height, run.model.input.width);

  Loader loader(data.train, train_loader_options(run, 0, 0, std::move(cache)));
  const auto start = Clock::now();
  auto counted_from = start;
  int64_t batches = 0;
  double slowest_excluded = 0;
  while (const Batch* batch = loader.next()) {
    const auto begin = Clock::now();
    ArenaScope scope(ctx.scratch());
    const ConstTensor images = batch_images(*batch, ctx);
    step.accumulate(images, batch->labels, {}, 1, Rng(), ctx);
    step.update(0, ctx);
    ++batches;
    if (batches <= kWarmUp) {
      // A run with few batches or very slow steps is judged by its last warm-up step.
      slowest_excluded = seconds_since(begin);
      counted_from = Clock::now();
    } else if (batches >= kWarmUp + kLeast && seconds_since(counted_from) > kEnough) {
      break;
    }
    if (seconds_since(start) > kPatience) break;
  }
  check(batches > 0, "the loader gave no batch to measure");
  cost.seconds_per_batch = batches > kWarmUp ? seconds_since(counted_from) / static_cast<double>(batches - kWarmUp) : slowest_excluded;
  cost.memory_mib = resident_memory_mib();
  cost.seconds_per_validation_batch = validation_seconds(run, data, *model, ctx);
  return cost;
}

}  // namespace fovea
