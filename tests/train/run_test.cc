// Whole runs of train() on a small synthetic data set.
#include <sys/resource.h>

#include <csignal>

#include "run_fixture.h"
#include "tasks/run_directory.h"
#include "weights/weight_file.h"

namespace fovea {
namespace {

using namespace testing_runs;
using testing::HasSubstr;

class Runs : public testing::Test {
 protected:
  void SetUp() override { make_images(folder_ / "data", 3, 24); }
  TrainOptions options(const std::string& out) { return tiny(folder_ / "data", folder_ / out); }
  // Trains to the end or to a stop, and again with --resume.
  TrainResult resume(const std::string& out, Observer& observer, int threads = 0) {
    TrainOptions o;
    o.resume = (folder_ / out).string();
    o.execution.threads = threads;
    return train(o, observer);
  }
  void expect_same_run(const std::string& a, const std::string& b) {
    EXPECT_EQ(read_file(folder_ / a / "last.safetensors"), read_file(folder_ / b / "last.safetensors")) << a << " and " << b;
    EXPECT_EQ(read_file(folder_ / a / "best.safetensors"), read_file(folder_ / b / "best.safetensors")) << a << " and " << b;
    EXPECT_EQ(metrics_without_times(folder_ / a), metrics_without_times(folder_ / b)) << a << " and " << b;
  }
  Folder folder_;
};

TEST_F(Runs, LeavesWhatItPromises) {
  Observer observer;
  TrainOptions o = options("run");
  o.epochs = 6;
  const TrainResult result = train(o, observer);
  ASSERT_EQ(observer.plans.size(), 1u);
  const TrainPlan& plan = observer.plans[0];
  EXPECT_EQ(plan.classes, 3);
  EXPECT_EQ(plan.epochs, 6);
  EXPECT_EQ(plan.train_images + plan.val_images, 72);
  EXPECT_EQ(plan.steps_per_epoch, plan.train_images / 16);
  EXPECT_EQ(plan.height, 28);
  EXPECT_GT(plan.seconds_per_epoch, 0);
  EXPECT_GT(plan.peak_memory_mib, 1);
  EXPECT_GT(plan.step_gflop, 0);
  EXPECT_FALSE(plan.notes.empty());
  EXPECT_EQ(observer.steps, 6 * plan.steps_per_epoch);
  ASSERT_EQ(result.epochs.size(), 6u);
  EXPECT_EQ(observer.epochs.size(), 6u);
  EXPECT_LT(result.epochs[5].train_loss, result.epochs[0].train_loss);
  EXPECT_GT(result.best_val_top1, 0.6);  // a third by chance
  EXPECT_FALSE(result.interrupted);
  for (const char* name : {"config.json", "metrics.csv", "last.safetensors", "best.safetensors", "report.html"})
    EXPECT_TRUE(fs::exists(folder_ / "run" / name)) << name;
  const WeightFile best = open_weights((folder_ / "run" / "best.safetensors").string());
  EXPECT_EQ(config_from_json(best.metadata().at("fovea.config"), "best").classes, 3);
  EXPECT_EQ(best.metadata().at("fovea.epoch"), std::to_string(result.best_epoch));
  EXPECT_EQ(best.find("optimizer.m"), nullptr);
  EXPECT_NE(open_weights((folder_ / "run" / "last.safetensors").string()).find("optimizer.m"), nullptr);
  const std::string page = read_file(folder_ / "run" / "report.html");
  EXPECT_NE(page.find("All planned epochs were trained."), std::string::npos);
  EXPECT_NE(page.find("class2"), std::string::npos);
}

TEST_F(Runs, GivesTheSameBitsForAnyNumberOfThreads) {
  Observer observer;
  train(options("one"), observer);
  for (const int threads : {2, 3}) {
    TrainOptions o = options(fmt::format("t{}", threads));
    o.execution.threads = threads;
    o.loader_threads = threads;
    train(o, observer);
    expect_same_run("one", fmt::format("t{}", threads));
  }
}

// Products on rounded operands follow the same course as f32, threads and stops change nothing, and the choice is kept with the run.
TEST_F(Runs, InBf16) {
  Observer observer;
  TrainOptions o = options("f32");
  const TrainResult exact = train(o, observer);
  o.dtype = "bf16";
  o.out = (folder_ / "bf16").string();
  const TrainResult rounded = train(o, observer);
  ASSERT_EQ(rounded.epochs.size(), exact.epochs.size());
  for (size_t i = 0; i < exact.epochs.size(); ++i) {
    EXPECT_NEAR(rounded.epochs[i].train_loss, exact.epochs[i].train_loss, 0.02 * exact.epochs[i].train_loss) << i;
    EXPECT_NE(rounded.epochs[i].train_loss, exact.epochs[i].train_loss) << i;
  }
  o.out = (folder_ / "threads").string();
  o.execution.threads = 3;
  train(o, observer);
  expect_same_run("bf16", "threads");
  o.out = (folder_ / "stopped").string();
  Observer first, second;
  first.stop_after = 5;
  train(o, first);
  resume("stopped", second);
  expect_same_run("bf16", "stopped");
  o.dtype = "int8";
  o.out = (folder_ / "int8").string();
  EXPECT_THROW(train(o, observer), Error);
}

TEST_F(Runs, SeedsMatter) {
  Observer observer;
  TrainOptions o = options("a");
  o.epochs = 1;
  train(o, observer);
  o.out = (folder_ / "b").string();
  o.seed = 1;
  train(o, observer);
  EXPECT_NE(metrics_without_times(folder_ / "a"), metrics_without_times(folder_ / "b"));
}

// Every place where a run can be stopped: after each step and each validation batch.
TEST_F(Runs, ResumedEqualsUninterrupted) {
  Observer whole;
  const TrainResult all = train(options("whole"), whole);
  ASSERT_GT(whole.asked, 10);
  for (int64_t stop = 1; stop <= whole.asked; stop += stop == 1 ? 1 : 3) {
    const std::string name = fmt::format("stop{}", stop);
    Observer first;
    first.stop_after = stop;
    const TrainResult part = train(options(name), first);
    EXPECT_TRUE(part.interrupted) << stop;
    Observer second;
    const TrainResult rest = resume(name, second, 2);
    EXPECT_FALSE(rest.interrupted);
    EXPECT_EQ(rest.epochs.size(), all.epochs.size());
    EXPECT_EQ(rest.best_epoch, all.best_epoch);
    expect_same_run("whole", name);
  }
}

TEST_F(Runs, ResumedWithAccumulationEqualsUninterrupted) {
  Observer whole, first, second;
  TrainOptions o = options("whole");
  o.batch = 8;
  o.accumulate = 2;
  train(o, whole);
  o.out = (folder_ / "part").string();
  first.stop_after = 6;
  train(o, first);
  resume("part", second);
  expect_same_run("whole", "part");
}

// What kill -9 leaves: the checkpoint of an earlier epoch, perhaps with newer metrics and newer best weights.
TEST_F(Runs, ResumesFromAnEarlierCheckpoint) {
  Observer whole;
  train(options("whole"), whole);
  Observer killed;
  TrainOptions o = options("killed");
  killed.at_epoch = [&] {
    if (killed.epochs.size() == 1) fs::copy(folder_ / "killed" / "last.safetensors", folder_ / "kept");
  };
  train(o, killed);
  fs::rename(folder_ / "kept", folder_ / "killed" / "last.safetensors");
  Observer again;
  const TrainResult result = resume("killed", again);
  EXPECT_EQ(result.epochs.size(), 3u);
  EXPECT_EQ(again.epochs.size(), 2u);
  EXPECT_EQ(again.plans.at(0).start_epoch, 1);
  expect_same_run("whole", "killed");
}

TEST_F(Runs, RefusesToResumeWhatIsFinishedOrNoRun) {
  Observer observer;
  TrainOptions o = options("run");
  o.epochs = 1;
  train(o, observer);
  EXPECT_THAT(error_of([&] { resume("run", observer); }), HasSubstr("is finished (1 epochs)"));
  EXPECT_THAT(error_of([&] { resume("nowhere", observer); }), HasSubstr("there is no such run directory"));
  EXPECT_THAT(error_of([&] { resume("data", observer); }), HasSubstr("no config.json"));
  EXPECT_THAT(error_of([&] { train(o, observer); }), HasSubstr("is not empty"));
}

TEST_F(Runs, RefusesToResumeOnOtherData) {
  Observer observer;
  observer.stop_after = 2;
  train(options("run"), observer);
  make_images(folder_ / "data", 3, 30);
  EXPECT_THAT(error_of([&] { resume("run", observer); }), HasSubstr("is not the data that the run began with"));
}

TEST_F(Runs, StopsEarly) {
  Observer observer;
  TrainOptions o = options("run");
  o.epochs = 30;
  o.lr = 1e-12;  // nothing changes, so nothing gets better
  o.early_stopping = 2;
  o.set.emplace_back("drop_path", "0");
  const TrainResult result = train(o, observer);
  EXPECT_TRUE(result.stopped_early);
  EXPECT_LT(result.epochs.size(), 30u);
  EXPECT_EQ(static_cast<int64_t>(result.epochs.size()), result.best_epoch + 2);
  EXPECT_THAT(error_of([&] { resume("run", observer); }), HasSubstr("is finished"));
}

TEST_F(Runs, AFullDiskKeepsTheOldCheckpoint) {
  Observer observer;
  TrainOptions o = options("run");
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  std::string kept;
  observer.at_epoch = [&] {
    kept = read_file(folder_ / "run" / "last.safetensors");
    rlimit small = before;
    small.rlim_cur = 8192;
    setrlimit(RLIMIT_FSIZE, &small);
  };
  const std::string error = error_of([&] { train(o, observer); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, HasSubstr((folder_ / "run").string()));
  EXPECT_THAT(error, HasSubstr("cannot write"));
  EXPECT_EQ(read_file(folder_ / "run" / "last.safetensors"), kept);
  Observer whole, again;
  train(options("whole"), whole);
  resume("run", again);
  expect_same_run("whole", "run");
}

TEST_F(Runs, ALossThatIsNoNumberNamesTheBatch) {
  Observer observer;
  TrainOptions o = options("run");
  o.lr = 1e30;
  o.clip_norm = 0;
  const std::string error = error_of([&] { train(o, observer); });
  EXPECT_THAT(error, HasSubstr("at update "));
  EXPECT_THAT(error, HasSubstr(".ppm"));
  EXPECT_THAT(error, HasSubstr("lower --lr"));
}

TEST_F(Runs, SkipsBrokenImagesAndListsThem) {
  write_file(folder_ / "data" / "class1" / "zz_broken.ppm", "P6\n28 28\n255\nshort");
  Observer observer;
  TrainOptions o = options("run");
  EXPECT_THAT(error_of([&] { train(o, observer); }), HasSubstr("zz_broken.ppm"));
  o.out = (folder_ / "run2").string();
  o.max_broken = 0.1;
  const TrainResult result = train(o, observer);
  ASSERT_EQ(result.skipped.size(), 1u);
  EXPECT_THAT(result.skipped[0].file, HasSubstr("zz_broken.ppm"));
  EXPECT_THAT(read_file(folder_ / "run2" / "report.html"), HasSubstr("zz_broken.ppm"));
}

TEST_F(Runs, StartsFromOtherWeights) {
  Observer observer;
  TrainOptions o = options("first");
  o.epochs = 6;
  train(o, observer);
  TrainOptions tuned = options("tuned");
  tuned.init = (folder_ / "first").string();
  tuned.epochs = 1;
  tuned.set.clear();  // the sizes come with the weights
  const TrainResult result = train(tuned, observer);
  EXPECT_GT(result.best_val_top1, 0.6);

  make_images(folder_ / "two", 2, 24);
  TrainOptions other = tiny(folder_ / "two", folder_ / "headless");
  other.init = tuned.init;
  other.epochs = 1;
  EXPECT_EQ(train(other, observer).epochs.size(), 1u);

  TrainOptions wrong = options("wrong");
  wrong.init = tuned.init;
  wrong.model = "vit_mini";
  wrong.set.clear();
  EXPECT_THAT(error_of([&] { train(wrong, observer); }), HasSubstr("do not fit vit_mini"));
  EXPECT_FALSE(fs::exists(folder_ / "wrong"));
}

TEST_F(Runs, SplitsTheTimeOfAMinuteBudget) {
  Observer observer;
  TrainOptions o = options("run");
  o.epochs = 0;
  o.minutes = 0.05;
  observer.stop_after = 1;
  train(o, observer);
  const TrainPlan& plan = observer.plans.at(0);
  EXPECT_GE(plan.epochs, 1);
  EXPECT_LE(static_cast<double>(plan.epochs) * plan.seconds_per_epoch, 3.0 + plan.seconds_per_epoch);
  const RunConfig config = RunDirectory::open(o.out).config();
  EXPECT_EQ(config.epochs(), plan.epochs);
  // Used up to a step, though that be a part of an epoch.
  const double step = plan.seconds_per_epoch / static_cast<double>(config.steps_per_epoch);
  EXPECT_NEAR(static_cast<double>(config.total_steps) * step, 0.97 * 3.0, std::max(step, 0.01 * plan.seconds_per_epoch));
}

TEST_F(Runs, RefusesContradictions) {
  Observer observer;
  const auto error = [&](const std::function<void(TrainOptions&)>& change) {
    TrainOptions o = options("refused");
    change(o);
    const std::string message = error_of([&] { train(o, observer); });
    EXPECT_FALSE(fs::exists(o.out)) << message;
    return message;
  };
  EXPECT_THAT(error([](auto& o) { o.classes = 4; }), HasSubstr("--classes 4"));
  EXPECT_THAT(error([](auto& o) { o.model = "swin_mimi"; }), HasSubstr("did you mean 'swin_mini'"));
  EXPECT_THAT(error([](auto& o) { o.minutes = 1; }), HasSubstr("exclude each other"));
  EXPECT_THAT(error([](auto& o) { o.batch = 500; }), HasSubstr("smaller --batch"));
  EXPECT_THAT(error([](auto& o) { o.augment = "mirror"; }), HasSubstr("no augmentation 'mirror'"));
  EXPECT_THAT(error([](auto& o) { o.set.emplace_back("dpeth", "3"); }), HasSubstr("dpeth"));
  EXPECT_THAT(error([](auto& o) { o.attention = "winbow"; }), HasSubstr("winbow"));
  EXPECT_THAT(error([](auto& o) { o.lr = -1; }), HasSubstr("--lr"));
  EXPECT_THAT(error([](auto& o) { o.execution.kernels = "cpu.avx9"; }), HasSubstr("cpu.avx9"));
}

}  // namespace
}  // namespace fovea
