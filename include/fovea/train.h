// Training a classifier on labelled images.
#pragma once

#include "fovea/evaluate.h"

namespace fovea {

struct TrainOptions {
  std::string data;                     // folder of class folders, IDX folder, .tar.gz, or an installed data set's name
  std::string model;                    // a preset; empty: the model of `init`, or swin_mini
  std::string attention;                // SPEC; empty: the preset's
  int64_t height = 0, width = 0;        // 0: 28 to 64 as the images are for mini presets, else the preset's
  double epochs = 0;                    // 0: by `minutes`, or 10
  double minutes = 0;                   // time budget of training; the schedule is fitted to it
  int64_t batch = 0;                    // 0: chosen for the model
  std::string dtype = "f32";            // or bf16: products of weights read their operands rounded
  int64_t accumulate = 1;               // steps of `batch` images for each update
  double lr = 0;                        // peak; 0: 1e-3 scaled to the batch
  double weight_decay = 0.05, warmup_epochs = -1 /* -1: a twentieth of the run */, clip_norm = 1, label_smoothing = 0.1;
  double dropout = -1, drop_path = -1;  // -1: the preset's
  std::string augment = "auto";         // auto, none, flip, crop, flip+crop, resized-crop, flip+resized-crop
  int64_t early_stopping = 0;           // stop after this many epochs without a better validation accuracy; 0: never
  std::string init;                     // weights to start from (fine-tuning); the head is replaced when classes differ
  int64_t classes = 0;                  // 0: as many as the data has; otherwise checked against it
  std::string out;                      // run directory; empty: runs/NAME-DATE
  std::string resume;                   // run directory to continue; all other options come from it
  Settings set;
  ExecutionOptions execution;
  uint64_t seed = 0;
  double max_broken = 0.01;
  int64_t loader_threads = 0;           // 0: one for each two cores, at least one
};

// What a run will take, known before its first step.
struct TrainPlan {
  std::string model, attention, data, out;
  int64_t parameters = 0, train_images = 0, val_images = 0, classes = 0, steps_per_epoch = 0, epochs = 0, batch = 0;
  int64_t height = 0, width = 0, start_epoch = 0;
  double peak_memory_mib = 0;           // estimated from one measured step
  double seconds_per_epoch = 0;         // likewise; training and validation
  double step_gflop = 0;
  std::vector<std::string> notes;       // e.g. how the validation part was held out, what was assumed
};

struct EpochMetrics {
  int64_t epoch = 0, step = 0;          // epoch counts from 1; step: updates so far
  double lr = 0, train_loss = 0, train_top1 = 0, val_loss = 0, val_top1 = 0, images_per_s = 0, seconds = 0;
  bool best = false;
};

struct TrainProgress {
  int64_t epoch = 0, epochs = 0, step = 0, steps = 0;  // within this epoch
  double loss = 0, lr = 0, images_per_s = 0, seconds_left = 0;
  bool validating = false;
};

// The caller's side of a run; all calls come from the thread that called train().
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_plan(const TrainPlan&) {}
  virtual void on_progress(const TrainProgress&) {}
  virtual void on_epoch(const EpochMetrics&) {}
  virtual void on_message(const std::string&) {}     // a sentence for the user
  virtual bool stop_requested() { return false; }    // asked after every step: true saves and ends cleanly
};

struct TrainResult {
  std::string out;                      // run directory: config.json, metrics.csv, last.safetensors, best.safetensors, report.html
  std::vector<EpochMetrics> epochs;     // of the whole run, earlier parts included
  int64_t best_epoch = 0;
  double best_val_top1 = 0;
  bool stopped_early = false, interrupted = false;
  std::vector<SkippedFile> skipped;
};

// Same options, seed and machine kind: the same bits, for any number of threads; a resumed run equals an uninterrupted one.
TrainResult train(const TrainOptions& options, TrainObserver& observer);

}  // namespace fovea
