// compare(): one training after the other, each a run directory of its own, then the measurements and the report. What is
// done is on disk at once, so that the same call continues after a kill.
#include "fovea/compare.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "core/json.h"
#include "fovea/evaluate.h"
#include "report/csv.h"
#include "report/text_file.h"
#include "tasks/compare_measure.h"
#include "tasks/compare_summary.h"
#include "tasks/compare_trial.h"
#include "tasks/run_directory.h"
#include "tasks/train_classifier_setup.h"
#include "weights/weight_file.h"

namespace fovea {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr const char* kOptionsFile = "comparison.json";
constexpr const char* kTrialFile = "trial.json";

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return in.good() ? text.str() : "";
}

// A SPEC as a folder's name: window:size=7 -> window_size-7.
std::string slug(const std::string& spec) {
  std::string s;
  for (const char c : spec) {
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.') s += c;
    else if (c == '=') s += '-';
    else if (c == '+') s += "_plus_";
    else if (c == ',') s += "_and_";
    else if (c == '/') s += "_then_";
    else s += '_';
  }
  return s;
}

// What makes two comparisons the same one.
std::string identity(const CompareOptions& o) {
  Json j;
  j["data"] = o.data;
  j["model"] = o.model;
  j["attentions"] = o.attentions;
  j["seeds"] = o.seeds;
  j["epochs"] = o.epochs;
  j["minutes"] = o.minutes;
  j["size"] = {o.height, o.width};
  j["batch"] = o.batch;
  j["set"] = o.set;
  j["seed"] = o.seed;
  j["kernels"] = o.execution.kernels;
  if (o.dtype != "f32") j["dtype"] = o.dtype;
  return j.dump(2) + "\n";
}

// Passes a training's progress on as a part of the whole, and its wish to stop.
class TrialObserver : public TrainObserver {
 public:
  TrialObserver(CompareObserver& to, std::string what, std::function<void(double)> share) : to_(to), what_(std::move(what)), share_(std::move(share)) {}
  void on_plan(const TrainPlan& p) override { batch_ = p.batch; }
  void on_progress(const TrainProgress& p) override {
    const double epochs = static_cast<double>(std::max<int64_t>(1, p.epochs));
    const double in_epoch = p.steps > 0 ? static_cast<double>(p.step) / static_cast<double>(p.steps) : 0;
    text_ = fmt::format("{}: {}epoch {}/{}", what_, p.validating ? "validating " : "", p.epoch, p.epochs);
    share_(std::min(1.0, (static_cast<double>(p.epoch - 1) + in_epoch) / epochs));
  }
  void on_message(const std::string& m) override { to_.on_message(fmt::format("{}: {}", what_, m)); }
  bool stop_requested() override { return to_.stop_requested(); }
  const std::string& text() const { return text_; }
  int64_t batch() const { return batch_; }

 private:
  CompareObserver& to_;
  std::string what_, text_;
  std::function<void(double)> share_;
  int64_t batch_ = 0;
};

class Comparing {
 public:
  Comparing(const CompareOptions& options, CompareObserver& observer) : o_(options), observer_(observer), start_(Clock::now()) {
    check_options();
    open_folder();
  }

  CompareResult run() {
    for (int64_t s = 0; s < o_.seeds; ++s)  // seed by seed, so that an early end leaves every contender with equally many
      for (int64_t c = 0; c < contenders(); ++c) run_trial(c, s);
    measure_costs();
    if (o_.growth) measure_growth();
    result_.verdict = write_comparison(result_, configs_, o_);
    return result_;
  }

 private:
  int64_t contenders() const { return std::ssize(o_.attentions); }

  TrainOptions train_options(int64_t contender, int64_t seed) const {
    TrainOptions t;
    t.data = o_.data;
    t.model = o_.model;
    t.attention = o_.attentions[static_cast<size_t>(contender)];
    t.height = o_.height;
    t.width = o_.width;
    t.batch = o_.batch;
    t.dtype = o_.dtype;
    t.set = o_.set;
    t.seed = o_.seed + static_cast<uint64_t>(seed);
    t.execution = o_.execution;
    if (o_.minutes > 0) t.minutes = o_.minutes / static_cast<double>(contenders() * o_.seeds);
    else t.epochs = o_.epochs;
    t.out = trial_path(contender, seed).string();
    return t;
  }

  fs::path trial_path(int64_t contender, int64_t seed) const {
    return fs::path(o_.out) / "trials" / fmt::format("{}-seed{}", slug(o_.attentions[static_cast<size_t>(contender)]), o_.seed + static_cast<uint64_t>(seed));
  }

  // Everything that can be wrong with any contender, before the first one is trained.
  void check_options() {
    require(o_.attentions.size() >= 2, "a comparison needs at least two attentions; give --attention SPEC for each contender");
    require(o_.seeds >= 1 && o_.seeds <= 1000, "--seeds {}: expected 1 to 1000", o_.seeds);
    require(o_.epochs == 0 || o_.minutes == 0, "--epochs and --minutes exclude each other");
    require(o_.epochs >= 0 && o_.minutes >= 0, "--epochs and --minutes must be positive");
    require(!o_.out.empty(), "compare needs --out DIR, the folder for its trainings and its report");
    if (o_.epochs == 0 && o_.minutes == 0) o_.epochs = kDefaultEpochs;
    for (size_t i = 0; i < o_.attentions.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        require(slug(o_.attentions[i]) != slug(o_.attentions[j]), "the attention '{}' is named twice", o_.attentions[i]);
    const DataSplits data = open_data(o_.data, o_.seed);
    result_.train_images = data.train->size();
    std::vector<std::string> wrong;
    for (int64_t c = 0; c < contenders(); ++c) {
      const std::string& spec = o_.attentions[static_cast<size_t>(c)];
      try {
        const RunConfig run = resolve_training(train_options(c, 0), data);
        for (const std::string& reason : model_unsupported(run.model, run.model.input.height, run.model.input.width))
          wrong.push_back(fmt::format("{}: {}", spec, reason));
        configs_.push_back(run.model);
        batch_ = run.options.batch;
        for (const std::string& n : run.notes)
          if (c == 0) result_.notes.push_back(n);
      } catch (const Error& e) {
        wrong.push_back(fmt::format("{}: {}", spec, e.what()));
      }
    }
    require(wrong.empty(), "{} of {} contenders cannot run: {}", wrong.size(), contenders(), fmt::join(wrong, "; "));
    const ModelConfig& m = configs_[0];
    result_.out = o_.out;
    result_.model = o_.model;
    result_.data = o_.data;
    result_.attentions = o_.attentions;
    result_.classes = m.classes;
    result_.height = m.input.height;
    result_.width = m.input.width;
    result_.batch = batch_;
  }

  void open_folder() {
    std::error_code error;
    fs::create_directories(fs::path(o_.out) / "trials", error);
    require(!error, "cannot make the folder '{}': {}", o_.out, error.message());
    const fs::path file = fs::path(o_.out) / kOptionsFile;
    const std::string mine = identity(o_);
    if (fs::exists(file)) {
      require(read_text(file) == mine, "'{}' holds another comparison (see {}); choose another --out, or give the options it began with", o_.out,
              file.string());
    } else {
      report::write_text_atomically(file.string(), mine);
    }
  }

  void run_trial(int64_t contender, int64_t seed) {
    const fs::path path = trial_path(contender, seed);
    const std::string& spec = o_.attentions[static_cast<size_t>(contender)];
    if (const auto known = read_trial(path / kTrialFile, contender, seed)) {
      result_.trials.push_back(*known);
      ++trials_done_;
      return;
    }
    const std::string what = fmt::format("{}, seed {} of {}", spec, seed + 1, o_.seeds);
    std::optional<TrialObserver> watch;
    watch.emplace(observer_, what, [&](double share) { progress(watch->text(), share); });
    if (!finished(path)) {
      TrainOptions t = train_options(contender, seed);
      // A run that was stopped before its first checkpoint has nothing to continue.
      if (fs::exists(path / "last.safetensors") && fs::exists(path / "config.json")) t.resume = path.string();
      else fs::remove_all(path);
      const TrainResult r = train(t, *watch);
      if (r.interrupted) throw Interrupted(fmt::format("the comparison was stopped; the same command with --out {} continues it", o_.out));
      for (const SkippedFile& s : r.skipped) observer_.on_message(fmt::format("{}: skipped {}: {}", what, s.file, s.why));
    }
    const CompareTrial trial = judge(path, contender, seed);
    report::write_text_atomically((path / kTrialFile).string(), to_json(JudgedTrial{trial, result_.split, result_.images}));
    result_.trials.push_back(trial);
    ++trials_done_;
    ++trained_here_;
    observer_.on_trial(trial, spec);
  }

  static bool finished(const fs::path& path) {
    if (!fs::exists(path / "last.safetensors")) return false;
    const auto metadata = open_weights((path / "last.safetensors").string()).metadata();
    const auto it = metadata.find("fovea.training");
    if (it == metadata.end()) return false;
    const Json state = parse_json<Json>(it->second);
    bool done = false;
    const auto at = state.find("finished");
    return at != state.end() && read_json(*at, done) && done;
  }

  // The best epoch's weights (chosen on validation) on the images that decide.
  CompareTrial judge(const fs::path& path, int64_t contender, int64_t seed) {
    CompareTrial t;
    t.contender = contender;
    t.seed = seed;
    RunDirectory run = RunDirectory::open(path.string());
    const RunConfig& config = run.config();
    run.open_metrics(config.epochs());
    double weighted = 0, images = 0;
    for (const EpochMetrics& m : run.epochs()) {
      t.seconds += m.seconds;
      if (m.best) {
        t.val_top1 = m.val_top1;
        t.best_epoch = m.epoch;
      }
      if (m.images_per_s > 0) {
        weighted += 1 / m.images_per_s;
        images += 1;
      }
    }
    t.train_images_per_s = weighted > 0 ? images / weighted : kNaN;
    t.epochs = static_cast<double>(config.total_steps) / static_cast<double>(config.steps_per_epoch);
    EvaluateOptions e;
    e.data = o_.data;
    e.execution = o_.execution;
    e.seed = config.options.seed;
    LoadOptions load;
    load.kernels = o_.execution.kernels;
    const Model model = Model::load(path.string(), load);
    const Evaluation evaluation = evaluate(model, e);
    t.top1 = evaluation.top1;
    t.top5 = evaluation.top5;
    t.loss = evaluation.loss;
    result_.split = evaluation.split;
    result_.images = evaluation.images;
    return t;
  }

  std::optional<CompareTrial> read_trial(const fs::path& file, int64_t contender, int64_t seed) {
    if (!fs::exists(file)) return std::nullopt;
    auto judged = judged_trial_from_json(read_text(file));
    if (!judged) return std::nullopt;  // made anew
    result_.split = judged->split;
    result_.images = judged->images;
    judged->trial.contender = contender;
    judged->trial.seed = seed;
    return judged->trial;
  }

  void measure_costs() {
    for (int64_t c = 0; c < contenders(); ++c) {
      stop_if_asked();
      progress(fmt::format("{}: speed and memory", o_.attentions[static_cast<size_t>(c)]), 0);
      result_.costs.push_back(measure_contender(configs_[static_cast<size_t>(c)], batch_, o_.execution));
    }
  }

  static std::string growth_key(bool model, int64_t contender, int64_t height, int64_t width) {
    return fmt::format("{} {} {}x{}", model ? "model" : "attention", contender, height, width);
  }

  // Sizes grow fourfold in area; what the last two points foretell to take too long is not run.
  void measure_growth() {
    static const report::CsvRow kColumns = {"what", "contender", "attention", "height", "width", "ms", "memory_mib", "why"};
    report::CsvWriter csv = report::CsvWriter::resume((fs::path(o_.out) / "growth.csv").string(), kColumns, 1 << 20);
    std::map<std::string, GrowthPoint> known;
    const auto number = [](const std::string& s) {
      return s == "nan" ? kNaN : std::strtod(s.c_str(), nullptr);
    };
    for (const report::CsvRow& row : csv.kept_rows()) {
      if (row.size() != kColumns.size()) continue;  // measured anew
      GrowthPoint p;
      p.model = row[0] == "model";
      p.contender = std::atoll(row[1].c_str());
      p.height = std::atoll(row[3].c_str());
      p.width = std::atoll(row[4].c_str());
      p.ms = number(row[5]);
      p.memory_mib = number(row[6]);
      p.why = row[7];
      known[growth_key(p.model, p.contender, p.height, p.width)] = p;
    }
    for (const bool model : {false, true}) {
      for (int64_t c = 0; c < contenders(); ++c) {
        const ModelConfig& config = configs_[static_cast<size_t>(c)];
        std::vector<GrowthPoint> curve;
        const int64_t first = model ? std::max<int64_t>(16, result_.height) : 16;
        const int64_t last = model ? 8 * first : std::llround(std::sqrt(static_cast<double>(o_.growth_tokens)));
        for (int64_t side = first; side <= last; side *= 2) {
          stop_if_asked();
          progress(fmt::format("{}: growth at {}x{} {}", o_.attentions[static_cast<size_t>(c)], side, side, model ? "pixels" : "tokens"), 0);
          if (const auto it = known.find(growth_key(model, c, side, side)); it != known.end()) {
            curve.push_back(it->second);
            continue;
          }
          curve.push_back(measure_point(config, model, c, side, curve));
          const GrowthPoint& p = curve.back();
          csv.write_row({model ? "model" : "attention", std::to_string(c), o_.attentions[static_cast<size_t>(c)], std::to_string(side), std::to_string(side),
                         report::csv_number(p.ms), report::csv_number(p.memory_mib), p.why});
        }
        result_.growth.insert(result_.growth.end(), curve.begin(), curve.end());
      }
    }
  }

  GrowthPoint measure_point(const ModelConfig& config, bool model, int64_t contender, int64_t side, const std::vector<GrowthPoint>& before) const {
    GrowthPoint p{contender, model, side, side, kNaN, kNaN, ""};
    const auto reasons = model ? model_unsupported(config, side, side) : attention_unsupported(config, side, side);
    if (!reasons.empty()) {
      p.why = fmt::format("{}", fmt::join(reasons, "; "));
      return p;
    }
    if (!before.empty() && !before.back().why.empty() && std::isnan(before.back().ms) && before.back().why.starts_with("a pass")) {
      p.why = before.back().why;
      return p;
    }
    if (before.size() >= 2 && before.back().ms > 0 && before[before.size() - 2].ms > 0) {
      const double expected = before.back().ms * std::max(4.0, before.back().ms / before[before.size() - 2].ms);
      if (expected > 1000 * o_.growth_seconds) {
        p.why = fmt::format("a pass would take about {:.0f} s", expected / 1000);
        return p;
      }
    }
    const GrowthMeasurement m = model ? measure_model_at(config, side, side, o_.execution) : measure_attention_at(config, side, side, o_.execution);
    p.ms = m.ms;
    p.memory_mib = m.memory_mib;
    return p;
  }

  void stop_if_asked() const {
    if (observer_.stop_requested()) throw Interrupted(fmt::format("the comparison was stopped; the same command with --out {} continues it", o_.out));
  }

  // Trainings are the most of the time; what is measured afterwards is counted as one of them.
  void progress(const std::string& what, double share_of_trial) {
    const auto trials = static_cast<double>(contenders() * o_.seeds);
    CompareProgress p;
    p.what = what;
    p.done = (static_cast<double>(trials_done_) + share_of_trial) / (trials + 1);
    const double here = static_cast<double>(trained_here_) + share_of_trial;
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    const double left = trials + 1 - static_cast<double>(trials_done_) - share_of_trial;
    p.seconds_left = here > 0.02 ? elapsed / here * left : o_.minutes > 0 ? 60 * o_.minutes : kNaN;
    observer_.on_progress(p);
  }

  CompareOptions o_;
  CompareObserver& observer_;
  Clock::time_point start_;
  CompareResult result_;
  std::vector<ModelConfig> configs_;  // by contender
  int64_t batch_ = 0, trials_done_ = 0, trained_here_ = 0;
};

}  // namespace

CompareResult compare(const CompareOptions& options, CompareObserver& observer) { return Comparing(options, observer).run(); }

}  // namespace fovea
