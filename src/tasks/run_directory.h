// The folder of one training run: config.json, metrics.csv, last.safetensors, best.safetensors, report.html.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fovea/train.h"
#include "models/config.h"
#include "report/csv.h"

namespace fovea {

// What was decided before a run's first step; enough to continue it with the same results.
struct RunConfig {
  TrainOptions options;              // resolved: every "choose for me" replaced by what was chosen
  ModelConfig model;
  std::string kernels;               // the table that "auto" stood for
  int64_t steps_per_epoch = 0;       // updates
  int64_t total_steps = 0, warmup_steps = 0;
  int64_t train_images = 0, val_images = 0;
  std::string data_description;
  std::vector<std::string> notes;

  int64_t epochs() const { return (total_steps + steps_per_epoch - 1) / steps_per_epoch; }  // the last may be a part
};

// The text of a run's config.json and back. Throws Error naming `where` and the key.
std::string to_json(const RunConfig& config);
RunConfig run_config_from_json(const std::string& text, const std::string& where);
// The rows of metrics.csv behind its head. Throws Error naming `where`.
EpochMetrics epoch_metrics_of(const report::CsvRow& row, const std::string& where);

class RunDirectory {
 public:
  // Throws Error unless `path` can become a new run: nothing is there, or an empty folder.
  static void require_free(const std::string& path);
  // Makes the folder and writes config.json. Throws Error as require_free does, or when writing fails.
  static RunDirectory create(const std::string& path, const RunConfig& config);
  // Opens a run to continue it. Throws Error when it is none.
  static RunDirectory open(const std::string& path);

  const RunConfig& config() const { return config_; }
  const std::string& path() const { return path_; }
  std::string last() const { return path_ + "/last.safetensors"; }
  std::string best() const { return path_ + "/best.safetensors"; }
  std::string report() const { return path_ + "/report.html"; }

  // The rows of metrics.csv. `keep_epochs` drops those newer than the checkpoint that is continued.
  void open_metrics(int64_t keep_epochs);
  const std::vector<EpochMetrics>& epochs() const { return epochs_; }
  void append(const EpochMetrics& metrics);

 private:
  RunDirectory(std::string path, RunConfig config) : path_(std::move(path)), config_(std::move(config)) {}

  std::string path_;
  RunConfig config_;
  std::optional<report::CsvWriter> csv_;
  std::vector<EpochMetrics> epochs_;
};

// Whether the first epoch is the better one: higher validation accuracy, the lower loss among equals.
bool is_better(double val_top1, double val_loss, double than_top1, double than_loss);

// runs/NAME-YYYYMMDD-HHMMSS in local time.
std::string default_run_path(const std::string& name);

}  // namespace fovea
