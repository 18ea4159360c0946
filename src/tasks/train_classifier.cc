// train(): the loop over epochs, with everything that has to survive an interruption in TrainingState.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "fovea/train.h"
#include "tasks/load_model.h"
#include "tasks/this_process.h"
#include "tasks/train_classifier_measure.h"
#include "tasks/train_classifier_report.h"
#include "tasks/train_classifier_setup.h"
#include "tasks/train_classifier_validation.h"
#include "train/classification_step.h"
#include "train/schedule.h"
#include "weights/weight_file.h"

namespace fovea {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kStepTag = 0x57455053;           // random numbers of the training steps
constexpr const char* kValidationKey = "fovea.validation";

StepConfig step_config(const TrainOptions& o) {
  StepConfig c;
  c.label_smoothing = o.label_smoothing;
  c.clip_norm = o.clip_norm;
  c.optimizer.weight_decay = o.weight_decay;
  return c;
}

// A picture is decoded once; validation needs less room.
struct PreparedData : DataSplits {
  explicit PreparedData(DataSplits splits)
      : DataSplits(std::move(splits)),
        train_cache(std::make_shared<ImageCache>(train->size())),
        val_cache(std::make_shared<ImageCache>(val->size(), ImageCache::kDefaultBytes / 4)) {}
  std::shared_ptr<ImageCache> train_cache, val_cache;
};

class TrainingRun {
 public:
  TrainingRun(RunDirectory directory, PreparedData data, const ExecutionOptions& execution, const MeasuredCost& cost, TrainObserver& observer)
      : directory_(std::move(directory)),
        run_(directory_.config()),
        data_(std::move(data)),
        observer_(observer),
        cost_(cost),
        table_(kernel_table(run_.kernels)),
        ctx_(table_, table_.dtype, execution.threads),
        model_(initial_model(run_, table_.dtype, ctx_)),
        step_(*model_, step_config(run_.options)) {
    ctx_.set_products(training_product_type(run_.options.dtype));
    schedule_.peak = run_.options.lr;
    schedule_.warmup_steps = run_.warmup_steps;
    schedule_.total_steps = run_.total_steps;
    state_.seed = run_.options.seed;
  }

  void load() {
    state_ = load_checkpoint(directory_.last(), *model_, step_.optimizer());
    require(state_.epoch <= run_.epochs() && state_.step <= run_.total_steps, "'{}' is further than the run of its folder; the files belong to two runs",
            directory_.last());
    require(!state_.finished, "--resume {}: the run is finished ({} epochs); start a new one from its weights with --init {}", directory_.path(),
            state_.epoch, directory_.path());
    if (state_.best_epoch == 0) return;
    const Metadata metadata = open_weights(directory_.best()).metadata();
    if (const auto it = metadata.find(kValidationKey); it != metadata.end()) best_ = Validation::from_json(it->second, run_.model.classes, data_.val->size());
  }

  TrainPlan plan() const;
  TrainResult run();

 private:
  enum class Outcome : uint8_t { kDone, kInterrupted };

  Outcome train_epoch();
  Outcome validate_epoch(Validation& result);
  void finish_epoch(const Validation& result);
  void accumulate(const Batch& batch, int64_t part, RunningMetrics& metrics);
  double update(const Batch& last_batch);
  void save_interrupted();
  void report(const std::string& why_ended);
  void note_skipped(const Loader& loader);
  void progress(bool validating, int64_t validated_images);

  int64_t steps_in_epoch() const { return std::min(run_.steps_per_epoch, run_.total_steps - state_.epoch * run_.steps_per_epoch); }
  std::string describe(const Batch& batch) const;

  RunDirectory directory_;
  const RunConfig run_;
  PreparedData data_;
  TrainObserver& observer_;
  MeasuredCost cost_;
  const KernelTable& table_;
  Context ctx_;
  std::unique_ptr<Classifier> model_;
  ClassificationStep step_;
  Schedule schedule_;

  TrainingState state_;
  Validation best_;
  TrainResult result_;
  double lr_ = 0;                      // of the last update
  Clock::time_point epoch_start_;
  double train_seconds_ = 0;           // of this epoch, without validation and earlier processes
  int64_t trained_images_ = 0;         // in them
};

TrainPlan TrainingRun::plan() const {
  TrainPlan p;
  const TrainOptions& o = run_.options;
  p.model = run_.model.name;
  p.attention = run_.model.attention;
  p.data = o.data;
  p.out = directory_.path();
  p.parameters = cost_.parameters;
  p.train_images = run_.train_images;
  p.val_images = run_.val_images;
  p.classes = run_.model.classes;
  p.steps_per_epoch = run_.steps_per_epoch;
  p.epochs = run_.epochs();
  p.batch = o.batch;
  p.height = run_.model.input.height;
  p.width = run_.model.input.width;
  p.start_epoch = state_.epoch;
  p.peak_memory_mib = cost_.memory_mib;
  p.seconds_per_epoch = cost_.seconds_per_epoch(run_);
  p.step_gflop = cost_.batch_gflop * static_cast<double>(o.accumulate);
  p.notes = run_.notes;
  return p;
}

std::string TrainingRun::describe(const Batch& batch) const {
  constexpr int64_t kNamed = 4;
  std::vector<std::string> names;
  const int64_t images = batch.images.dim(0);
  for (int64_t i = 0; i < std::min(images, kNamed); ++i) names.push_back(data_.train->name(batch.indices[i]));
  return fmt::format("the {} images {}{}", images, fmt::join(names, ", "), images > kNamed ? ", ..." : "");
}

void TrainingRun::accumulate(const Batch& batch, int64_t part, RunningMetrics& metrics) {
  ArenaScope scope(ctx_.scratch());
  const int64_t parts = run_.options.accumulate;
  const Rng rng = Rng(run_.options.seed).fork(kStepTag).fork(static_cast<uint64_t>(state_.step * parts + part));
  const StepResult r = step_.accumulate(batch_images(batch, ctx_), batch.labels, {}, 1.0 / static_cast<double>(parts), rng, ctx_);
  require(std::isfinite(r.loss), "the loss became {} at update {} (epoch {}) in {}; use a lower --lr than {:g}, check mean and std, and look at those images", r.loss,
          state_.step + 1, state_.epoch + 1, describe(batch), run_.options.lr);
  metrics.add(r.cross_entropy, r.correct, batch.images.dim(0));
}

double TrainingRun::update(const Batch& last_batch) {
  lr_ = schedule_.lr(state_.step);
  const double norm = step_.update(lr_, ctx_);
  require(std::isfinite(norm),
          "the gradients became {} at update {} (epoch {}) in {}; use a lower --lr than {:g}, check mean and std, and look at those images", norm,
          state_.step + 1, state_.epoch + 1, describe(last_batch), run_.options.lr);
  return norm;
}

void TrainingRun::progress(bool validating, int64_t validated_images) {
  TrainProgress p;
  const int64_t parts = run_.options.accumulate;
  p.epoch = state_.epoch + 1;
  p.epochs = run_.epochs();
  p.steps = steps_in_epoch();
  p.step = validating ? p.steps : state_.batch / parts;
  p.loss = state_.partial.loss();
  p.lr = lr_;
  p.validating = validating;
  p.images_per_s = train_seconds_ > 0 ? static_cast<double>(trained_images_) / train_seconds_ : 0;
  const double per_image = p.images_per_s > 0 ? 1 / p.images_per_s : 0;
  const auto steps_left = static_cast<double>(run_.total_steps - state_.epoch * run_.steps_per_epoch - p.step);
  const double images_left = steps_left * static_cast<double>(run_.options.batch * parts);
  const double validation_left = static_cast<double>(p.epochs - state_.epoch) * static_cast<double>(run_.val_images) - static_cast<double>(validated_images);
  p.seconds_left = images_left * per_image + validation_left / static_cast<double>(run_.options.batch) * cost_.seconds_per_validation_batch;
  observer_.on_progress(p);
}

void TrainingRun::note_skipped(const Loader& loader) {
  for (const BrokenImage& broken : loader.broken()) {
    const bool known = std::any_of(result_.skipped.begin(), result_.skipped.end(), [&](const SkippedFile& s) { return s.file == broken.name; });
    if (!known) {
      result_.skipped.push_back({broken.name, broken.why});
      observer_.on_message(fmt::format("skipped {}: {}", broken.name, broken.why));
    }
  }
}

TrainingRun::Outcome TrainingRun::train_epoch() {
  const int64_t parts = run_.options.accumulate, batches = steps_in_epoch() * parts;
  train_seconds_ = 0;
  trained_images_ = 0;
  if (state_.batch >= batches) return Outcome::kDone;  // interrupted after the epoch's last update
  const auto start = Clock::now();
  Loader loader(data_.train, train_loader_options(run_, state_.epoch, state_.batch, data_.train_cache));
  RunningMetrics metrics = state_.partial;
  int64_t part = 0;
  while (state_.batch + part < batches) {
    const Batch* batch = loader.next();
    if (batch == nullptr) break;  // broken images made the epoch shorter
    accumulate(*batch, part, metrics);
    trained_images_ += batch->images.dim(0);
    if (++part < parts) continue;
    part = 0;
    update(*batch);
    ++state_.step;
    state_.batch += parts;
    state_.partial = metrics;
    train_seconds_ = seconds_since(start);
    progress(false, 0);
    if (observer_.stop_requested()) {
      note_skipped(loader);
      return Outcome::kInterrupted;
    }
  }
  if (part != 0) model_->params().zero_grads();  // an update that broken images left incomplete
  note_skipped(loader);
  require(state_.partial.images > 0, "no image of {} could be used for training", run_.options.data);
  return Outcome::kDone;
}

TrainingRun::Outcome TrainingRun::validate_epoch(Validation& result) {
  Loader loader(data_.val, validation_loader_options(run_, data_.val_cache));
  const bool done = validate(
      *model_, loader,
      [&](int64_t images) {
        progress(true, images);
        return observer_.stop_requested();
      },
      result, ctx_);
  note_skipped(loader);
  if (!done) return Outcome::kInterrupted;
  require(result.metrics.images > 0, "no validation image of {} could be read", run_.options.data);
  return Outcome::kDone;
}

void TrainingRun::save_interrupted() {
  state_.partial_seconds += seconds_since(epoch_start_);
  save_checkpoint(directory_.last(), *model_, step_.optimizer(), state_);
}

void TrainingRun::finish_epoch(const Validation& result) {
  EpochMetrics m;
  m.epoch = state_.epoch + 1;
  m.step = state_.step;
  m.lr = lr_ > 0 ? lr_ : schedule_.lr(state_.step - 1);
  m.train_loss = state_.partial.loss();
  m.train_top1 = state_.partial.top1();
  m.val_loss = result.metrics.loss();
  m.val_top1 = result.metrics.top1();
  m.images_per_s = train_seconds_ > 0 ? static_cast<double>(trained_images_) / train_seconds_ : 0;
  m.best = state_.best_epoch == 0 || is_better(m.val_top1, m.val_loss, state_.best_val_top1, state_.best_val_loss);
  if (m.best) {
    state_.best_epoch = m.epoch;
    state_.best_val_top1 = m.val_top1;
    state_.best_val_loss = m.val_loss;
    best_ = result;
    save_weights(directory_.best(), *model_, {{"fovea.epoch", std::to_string(m.epoch)}, {kValidationKey, result.to_json()}});
  }
  ++state_.epoch;
  const double earlier_seconds = state_.partial_seconds;
  state_.batch = 0;
  state_.partial = RunningMetrics();
  state_.partial_seconds = 0;
  const TrainOptions& o = run_.options;
  state_.stopped_early = o.early_stopping > 0 && state_.epoch - state_.best_epoch >= o.early_stopping && state_.epoch < run_.epochs();
  state_.finished = state_.stopped_early || state_.epoch >= run_.epochs();
  m.seconds = earlier_seconds + seconds_since(epoch_start_);
  // The row before the checkpoint: a run that is killed in between drops the row when it is resumed.
  directory_.append(m);
  save_checkpoint(directory_.last(), *model_, step_.optimizer(), state_);
  observer_.on_epoch(m);
}

void TrainingRun::report(const std::string& why_ended) {
  write_training_report({directory_, state_, best_, plan(), result_.skipped, why_ended, ctx_.pool().threads(),
                         [&](int64_t i) { return data_.val->read(i); }, [&](int64_t i) { return data_.val->name(i); }});
}

TrainResult TrainingRun::run() {
  directory_.open_metrics(state_.epoch);
  // Before the first epoch ends there is something to resume from already.
  if (state_.step == 0) save_checkpoint(directory_.last(), *model_, step_.optimizer(), state_);
  while (!state_.finished && !result_.interrupted) {
    epoch_start_ = Clock::now();
    Validation validation;
    if (train_epoch() == Outcome::kInterrupted || validate_epoch(validation) == Outcome::kInterrupted) {
      save_interrupted();
      result_.interrupted = true;
      report(fmt::format("The run was interrupted in epoch {}; `fovea train --resume {}` continues it.", state_.epoch + 1, directory_.path()));
      break;
    }
    finish_epoch(validation);
    std::string why;
    if (state_.stopped_early)
      why = fmt::format("Training stopped early: no better validation accuracy in {} epochs.", run_.options.early_stopping);
    else if (state_.finished)
      why = "All planned epochs were trained.";
    report(why);
  }
  result_.out = directory_.path();
  result_.epochs = directory_.epochs();
  result_.best_epoch = state_.best_epoch;
  result_.best_val_top1 = state_.best_val_top1;
  result_.stopped_early = state_.stopped_early;
  return result_;
}

void check_same_data(const RunConfig& run, const DataSplits& data, const std::string& path) {
  require(data.train->size() == run.train_images && data.val->size() == run.val_images && data.train->class_names() == run.model.class_names,
          "--resume {}: {} is not the data that the run began with ({} training and {} validation images then, {} and {} now)", path,
          run.options.data, run.train_images, run.val_images, data.train->size(), data.val->size());
}

TrainResult start(const TrainOptions& options, TrainObserver& observer) {
  const std::string name = !options.model.empty() ? options.model : !options.init.empty() ? std::filesystem::path(options.init).stem().string() : "swin_mini";
  const std::string out = options.out.empty() ? default_run_path(name) : options.out;
  RunDirectory::require_free(out);
  PreparedData data(open_data(options.data, options.seed));
  RunConfig config = resolve_training(options, data);
  config.options.out = out;
  const MeasuredCost cost = measure_cost(config, data, data.train_cache, options.execution.threads);
  settle_epochs(config, cost.seconds_per_epoch(config));
  TrainingRun run(RunDirectory::create(out, config), std::move(data), options.execution, cost, observer);
  observer.on_plan(run.plan());
  return run.run();
}

TrainResult resume(const TrainOptions& options, TrainObserver& observer) {
  RunDirectory directory = RunDirectory::open(options.resume);
  const RunConfig& config = directory.config();
  ExecutionOptions execution = config.options.execution;
  if (options.execution.threads > 0) execution.threads = options.execution.threads;
  PreparedData data(open_data(config.options.data, config.options.seed));
  check_same_data(config, data, options.resume);
  const MeasuredCost cost = measure_cost(config, data, data.train_cache, execution.threads);
  TrainingRun run(std::move(directory), std::move(data), execution, cost, observer);
  run.load();
  observer.on_plan(run.plan());
  return run.run();
}

}  // namespace

TrainResult train(const TrainOptions& options, TrainObserver& observer) {
  return options.resume.empty() ? start(options, observer) : resume(options, observer);
}

}  // namespace fovea
