#include "tasks/run_directory.h"

#include <charconv>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/json.h"
#include "fovea/info.h"
#include "report/text_file.h"

namespace fovea {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

template <class Options, class Visit>
void visit_options(Options& o, Visit&& visit) {
  visit("data", o.data);
  visit("model", o.model);
  visit("attention", o.attention);
  visit("height", o.height);
  visit("width", o.width);
  visit("epochs", o.epochs);
  visit("minutes", o.minutes);
  visit("batch", o.batch);
  visit("dtype", o.dtype);
  visit("accumulate", o.accumulate);
  visit("lr", o.lr);
  visit("weight_decay", o.weight_decay);
  visit("warmup_epochs", o.warmup_epochs);
  visit("clip_norm", o.clip_norm);
  visit("label_smoothing", o.label_smoothing);
  visit("dropout", o.dropout);
  visit("drop_path", o.drop_path);
  visit("augment", o.augment);
  visit("early_stopping", o.early_stopping);
  visit("init", o.init);
  visit("classes", o.classes);
  visit("set", o.set);
  visit("threads", o.execution.threads);
  visit("seed", o.seed);
  visit("max_broken", o.max_broken);
  visit("loader_threads", o.loader_threads);
}

template <class Config, class Visit>
void visit_resolved(Config& c, Visit&& visit) {
  visit("kernels", c.kernels);
  visit("steps_per_epoch", c.steps_per_epoch);
  visit("total_steps", c.total_steps);
  visit("warmup_steps", c.warmup_steps);
  visit("train_images", c.train_images);
  visit("val_images", c.val_images);
  visit("data_description", c.data_description);
  visit("notes", c.notes);
}

}  // namespace

std::string to_json(const RunConfig& config) {
  Json j, training, resolved;
  visit_options(config.options, [&](const char* name, const auto& member) { training[name] = member; });
  visit_resolved(config, [&](const char* name, const auto& member) { resolved[name] = member; });
  j["fovea"] = version();
  j["model"] = Json::parse(to_json(config.model));
  j["training"] = training;
  j["run"] = resolved;
  return j.dump(2) + "\n";
}

RunConfig run_config_from_json(const std::string& text, const std::string& where) {
  auto j = parse_json<Json>(text);
  require(j.is_object() && j.contains("model") && j.contains("training") && j.contains("run"),
          "'{}' is not the configuration of a training run", where);
  if (j["training"].is_object() && !j["training"].contains("dtype")) j["training"]["dtype"] = "f32";  // before there was a choice
  RunConfig config;
  config.model = config_from_json(j["model"].dump(), where);
  const auto read = [&](const char* part) {
    return [&, part](const char* name, auto& member) {
      const auto at = j[part].find(name);
      require(at != j[part].end() && read_json(*at, member), "'{}': {}.{} is missing or of the wrong kind", where, part, name);
    };
  };
  visit_options(config.options, read("training"));
  visit_resolved(config, read("run"));
  constexpr int64_t kMost = int64_t{1} << 40, kMostOfAnUpdate = int64_t{1} << 20;  // so that their products are numbers, too
  const auto positive = [&](int64_t n, int64_t most) { return n > 0 && n <= most; };
  require(positive(config.steps_per_epoch, kMost) && positive(config.total_steps, kMost) && positive(config.options.batch, kMostOfAnUpdate) &&
              positive(config.options.accumulate, kMostOfAnUpdate),
          "'{}': the numbers of steps, batch and accumulate must be positive, and such as a run can have", where);
  for (const int64_t n : {config.warmup_steps, config.train_images, config.val_images})
    require(n >= 0 && n <= kMost, "'{}': {} steps or images are out of range", where, n);
  return config;
}

namespace {

const report::CsvRow kColumns = {"epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "images_per_s", "seconds"};

report::CsvRow to_row(const EpochMetrics& m) {
  using report::csv_number;
  return {std::to_string(m.epoch), std::to_string(m.step), csv_number(m.lr), csv_number(m.train_loss), csv_number(m.train_top1),
          csv_number(m.val_loss), csv_number(m.val_top1), csv_number(m.images_per_s), csv_number(m.seconds)};
}

}  // namespace

EpochMetrics epoch_metrics_of(const report::CsvRow& row, const std::string& where) {
  std::vector<double> numbers;
  for (const std::string& field : row) {
    double value = 0;
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    require(error == std::errc() && end == field.data() + field.size(), "'{}': '{}' is no number", where, field);
    numbers.push_back(value);
  }
  require(numbers.size() == kColumns.size(), "'{}': a row has {} fields, expected {}", where, numbers.size(), kColumns.size());
  const auto count = [&](double n) {
    constexpr double kMost = 1e12;
    require(n >= 0 && n <= kMost, "'{}': {} is no count of epochs or steps", where, n);
    return static_cast<int64_t>(n);
  };
  EpochMetrics m;
  m.epoch = count(numbers[0]);
  m.step = count(numbers[1]);
  m.lr = numbers[2];
  m.train_loss = numbers[3];
  m.train_top1 = numbers[4];
  m.val_loss = numbers[5];
  m.val_top1 = numbers[6];
  m.images_per_s = numbers[7];
  m.seconds = numbers[8];
  return m;
}

bool is_better(double val_top1, double val_loss, double than_top1, double than_loss) {
  return val_top1 > than_top1 || (val_top1 == than_top1 && val_loss < than_loss);
}

std::string default_run_path(const std::string& name) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &local);
  return fmt::format("runs/{}-{}", name, text);
}

void RunDirectory::require_free(const std::string& path) {
  std::error_code error;
  require(!fs::exists(path, error) || fs::is_directory(path, error), "cannot make the run directory '{}': a file of that name is there", path);
  require(!fs::exists(path, error) || fs::is_empty(path, error),
          "the run directory '{}' is not empty; choose another --out, or continue that run with --resume {}", path, path);
}

RunDirectory RunDirectory::create(const std::string& path, const RunConfig& config) {
  require_free(path);
  std::error_code error;
  fs::create_directories(path, error);
  require(!error, "cannot make the run directory '{}': {}", path, error.message());
  report::write_text_atomically(path + "/config.json", to_json(config));
  return {path, config};
}

RunDirectory RunDirectory::open(const std::string& path) {
  std::error_code error;
  require(fs::is_directory(path, error), "--resume {}: there is no such run directory", path);
  const std::string where = path + "/config.json";
  std::ifstream in(where, std::ios::binary);
  require(in.good(), "--resume {}: this is no run directory: it has no config.json", path);
  std::ostringstream text;
  text << in.rdbuf();
  RunDirectory run(path, run_config_from_json(text.str(), where));
  require(fs::exists(run.last(), error), "--resume {}: the run was stopped before its first checkpoint; start it anew", path);
  run.config_.options.out = path;
  return run;
}

void RunDirectory::open_metrics(int64_t keep_epochs) {
  const std::string where = path_ + "/metrics.csv";
  csv_.emplace(keep_epochs == 0 ? report::CsvWriter::create(where, kColumns) : report::CsvWriter::resume(where, kColumns, keep_epochs));
  for (const report::CsvRow& row : csv_->kept_rows()) {
    EpochMetrics m = epoch_metrics_of(row, where);
    m.best = true;
    for (const EpochMetrics& earlier : epochs_) m.best = m.best && is_better(m.val_top1, m.val_loss, earlier.val_top1, earlier.val_loss);
    epochs_.push_back(m);
  }
  require(static_cast<int64_t>(epochs_.size()) == keep_epochs, "'{}' has {} epochs, but the checkpoint has {}; the file was changed", where,
          epochs_.size(), keep_epochs);
}

void RunDirectory::append(const EpochMetrics& metrics) {
  csv_->write_row(to_row(metrics));
  epochs_.push_back(metrics);
}

}  // namespace fovea
