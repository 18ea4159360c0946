// fovea train DATA --model M
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "interrupt.h"
#include "options.h"
#include "progress.h"

namespace fovea::cli {

namespace {

using ConfigJson = nlohmann::json;

struct TrainArguments {
  Common common;
  SizeAndSettings shape;
  TrainOptions train;
  std::string config;
};

class TrainScreen : public TrainObserver {
 public:
  void on_plan(const TrainPlan& p) override {
    const auto line = [](std::string_view key, const std::string& value) { fmt::print("{:<16} {}\n", key, value); };
    line("model", fmt::format("{}, attention {}, {} parameters", p.model, p.attention, count_text(p.parameters)));
    line("data", fmt::format("{}: {} images to train on, {} to validate with, {} classes", p.data, p.train_images, p.val_images, p.classes));
    line("input", fmt::format("{}x{} pixels, {} images at a time", p.height, p.width, p.batch));
    line("memory", fmt::format("about {:.0f} MiB at its peak", p.peak_memory_mib));
    const auto epochs_left = static_cast<double>(p.epochs - p.start_epoch);
    line("time", fmt::format("about {} an epoch, {} for {} epoch{}{}", duration_text(p.seconds_per_epoch),
                             duration_text(p.seconds_per_epoch * epochs_left), p.epochs - p.start_epoch, p.epochs - p.start_epoch == 1 ? "" : "s",
                             p.start_epoch > 0 ? fmt::format(" (of {}) that are left", p.epochs) : ""));
    line("run", p.out);
    for (const std::string& n : p.notes) line("note", n);
    fmt::print("\n{:>5}  {:>10}  {:>9}  {:>9}  {:>8}  {:>8}  {:>8}  {:>9}\n", "epoch", "train loss", "train %", "val loss", "val %", "images/s",
               "seconds", "rate");
    std::fflush(stdout);
  }
  void on_progress(const TrainProgress& p) override {
    if (!bar_ || p.epoch != epoch_) {
      bar_.emplace(fmt::format("epoch {}/{}", p.epoch, p.epochs), "steps");
      epoch_ = p.epoch;
    }
    bar_->show(p.step, p.steps,
               fmt::format("{}step {}/{}  loss {:.3f}  {:.0f} images/s  {} left", p.validating ? "validating  " : "", p.step, p.steps, p.loss,
                           p.images_per_s, duration_text(p.seconds_left)));
  }
  void on_epoch(const EpochMetrics& m) override {
    bar_.reset();
    fmt::print("{:>5}  {:>10.4f}  {:>9.2f}  {:>9.4f}  {:>8.2f}  {:>8.0f}  {:>8.1f}  {:>9.2g}{}\n", m.epoch, m.train_loss, 100 * m.train_top1,
               m.val_loss, 100 * m.val_top1, m.images_per_s, m.seconds, m.lr, m.best ? "  best" : "");
    std::fflush(stdout);
  }
  void on_message(const std::string& text) override {
    if (bar_) bar_->finish();
    note(text);
  }
  bool stop_requested() override { return interrupted(); }
  void finish() { bar_.reset(); }

 private:
  std::optional<ProgressBar> bar_;
  int64_t epoch_ = 0;
};

std::string text_of(const ConfigJson& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// The options of a JSON file, or of a run's config.json, where the command line does not give them itself.
void read_config(CLI::App& verb, const std::string& path) {
  std::ifstream in(path);
  if (!in) throw Error(fmt::format("--config {}: there is no such file", path));
  ConfigJson j = ConfigJson::parse(in, nullptr, false);
  if (j.is_object() && j.contains("training")) j = ConfigJson(j["training"]);
  if (!j.is_object()) throw Error(fmt::format("--config {}: expected a JSON object of options, such as {{\"epochs\": 5}}", path));
  if (j.contains("height") && j.contains("width")) {
    if (j["height"] != 0) j["size"] = text_of(j["height"]) + "x" + text_of(j["width"]);
    j.erase("height");
    j.erase("width");
  }
  for (const auto& [name, value] : j.items()) {
    std::string key = name;
    for (char& c : key)
      if (c == '_') c = '-';
    CLI::Option* option = key == "data" ? verb.get_option_no_throw("DATA") : verb.get_option_no_throw("--" + key);
    if (option == nullptr || key == "config" || key == "help" || key == "resume")
      throw Error(fmt::format("--config {}: there is no option '{}'; `fovea train --help` lists them", path, name));
    if (option->count() > 0 || value.is_null() || (value.is_string() && value.get<std::string>().empty())) continue;
    std::vector<std::string> values;
    if (value.is_object()) {
      for (const auto& [k, v] : value.items()) values.push_back(k + "=" + text_of(v));
    } else if (value.is_array()) {
      for (const ConfigJson& v : value) values.push_back(v.is_array() && v.size() == 2 ? text_of(v[0]) + "=" + text_of(v[1]) : text_of(v));
    } else {
      values.push_back(text_of(value));
    }
    if (values.empty()) continue;
    for (const std::string& v : values) option->add_result(v);
    try {
      option->run_callback();
    } catch (const CLI::Error& e) {
      throw Error(fmt::format("--config {}: {}", path, e.what()));
    }
  }
}

void require_nothing_else(const CLI::App& verb) {
  for (const CLI::Option* option : verb.get_options()) {
    const std::string name = option->get_name();
    if (option->count() > 0 && name != "--resume" && name != "--threads")
      throw Error(fmt::format("--resume continues a run with its own options; leave {} out", name));
  }
}

int run(TrainArguments& o, CLI::App& verb) {
  require_kernels(o.common);
  if (!o.train.resume.empty()) {
    require_nothing_else(verb);
  } else {
    if (!o.config.empty()) read_config(verb, o.config);
    if (o.train.data.empty()) throw Error("train needs DATA, as in: fovea train my_photos --model swin_mini");
  }
  if (o.train.epochs > 0 && o.train.minutes > 0) throw Error("--epochs and --minutes exclude each other; name one");
  o.train.execution = o.common.execution;
  o.train.seed = o.common.seed;
  o.train.set = o.shape.settings();
  std::tie(o.train.height, o.train.width) = o.shape.height_width();
  watch_for_interrupts();
  TrainScreen screen;
  const TrainResult r = train(o.train, screen);
  screen.finish();
  if (!r.skipped.empty()) note(fmt::format("{} image{} could not be read and {} left out", r.skipped.size(), r.skipped.size() == 1 ? "" : "s",
                                           r.skipped.size() == 1 ? "was" : "were"));
  if (r.interrupted) {
    fmt::print("\nInterrupted and saved; continue with: fovea train --resume {}\n", r.out);
  } else {
    fmt::print("\n{}best validation accuracy {:.2f} % in epoch {}\n", r.stopped_early ? "Stopped early: " : "", 100 * r.best_val_top1, r.best_epoch);
  }
  fmt::print("Open {}/report.html to see the run.\n", r.out);
  return 0;
}

}  // namespace

Verb add_train(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("train", "Train a classifier on labelled images");
  verb->footer("Example:\n  fovea train fashion-mnist --model swin_mini --epochs 8 --out runs/fashion");
  const auto o = std::make_shared<TrainArguments>();
  TrainOptions& t = o->train;
  verb->add_option("DATA", t.data, "a folder of class folders or of IDX files, a .tar.gz of either, or an installed data set");
  verb->add_option("--model", t.model, "a preset, see fovea list models (default: the model of --init, else swin_mini)");
  verb->add_option("--attention", t.attention, "SPEC, another attention than the model's own (fovea list attentions)");
  add_size(*verb, o->shape);
  verb->add_option("--epochs", t.epochs, "passes over the training images (default: 10)")->check(CLI::NonNegativeNumber);
  verb->add_option("--minutes", t.minutes, "time to train for, instead of --epochs")->check(CLI::NonNegativeNumber);
  verb->add_option("--batch", t.batch, "images at a time (default: chosen for the model)");
  verb->add_option("--dtype", t.dtype, "f32, or bf16: products of weights read their operands rounded; weights, gradients and all else stay f32")
      ->capture_default_str();
  verb->add_option("--accumulate", t.accumulate, "batches for each update of the weights")->capture_default_str();
  verb->add_option("--lr", t.lr, "highest learning rate (default: 1e-3 scaled to the batch)");
  verb->add_option("--weight-decay", t.weight_decay, "of AdamW")->capture_default_str();
  verb->add_option("--warmup-epochs", t.warmup_epochs, "epochs of rising learning rate (default: a twentieth of the run)");
  verb->add_option("--clip-norm", t.clip_norm, "largest norm of the gradients; 0: no clipping")->capture_default_str();
  verb->add_option("--label-smoothing", t.label_smoothing, "share of the target given to all classes")->capture_default_str();
  verb->add_option("--dropout", t.dropout, "(default: the model's own)");
  verb->add_option("--drop-path", t.drop_path, "stochastic depth (default: the model's own)");
  verb->add_option("--augment", t.augment, "auto, none, flip, crop, flip+crop or resized-crop")->capture_default_str();
  verb->add_option("--early-stopping", t.early_stopping, "stop after this many epochs without a better validation accuracy; 0: never")->capture_default_str();
  verb->add_option("--init", t.init, "weights to start from: a run or a file");
  verb->add_option("--classes", t.classes, "expected number of classes (default: what the data has)");
  verb->add_option("--out", t.out, "run directory (default: runs/MODEL-DATE)");
  verb->add_option("--resume", t.resume, "continue this run directory with its own options");
  verb->add_option("--config", o->config, "JSON file of options (or a run's config.json); the command line goes before it");
  verb->add_option("--max-broken", t.max_broken, "share of unreadable images above which to stop")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  verb->add_option("--loader-threads", t.loader_threads, "threads that read images (default: one for each two cores)");
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o, verb] { return run(*o, *verb); }};
}

}  // namespace fovea::cli
