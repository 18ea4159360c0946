// Which attention suits this data, resolution and machine: each one trained in the same backbone under the same conditions.
#pragma once

#include "fovea/error.h"
#include "fovea/train.h"

namespace fovea {

struct CompareOptions {
  std::string data;                     // as for train()
  std::string model = "swin_mini";      // the preset that all contenders share
  std::vector<std::string> attentions;  // a SPEC for each contender, at least two
  int64_t seeds = 3;                    // trainings of each contender
  double epochs = 0;                    // of each training; 0: by `minutes`, or 10
  double minutes = 0;                   // of all trainings together, in equal shares: who is faster sees more images
  int64_t height = 0, width = 0, batch = 0;
  std::string dtype = "f32";            // of the trainings, as for train()
  Settings set;
  std::string out;                      // folder; what is there already of the same comparison is kept and continued
  ExecutionOptions execution;
  uint64_t seed = 0;                    // of the first training; the others count on from it
  bool growth = true;                   // also measure how time and memory grow with the input
  int64_t growth_tokens = 65536;        // up to about so many tokens for the attention alone
  double growth_seconds = 20;           // a measurement that would take longer a pass is left out and said to be
};

// One training of one contender.
struct CompareTrial {
  int64_t contender = 0, seed = 0;
  double top1 = 0, top5 = 0, loss = 0;  // on `CompareResult::split`; top1 in 0..1
  double val_top1 = 0;                  // of the best epoch, which was chosen by it
  int64_t best_epoch = 0;
  double epochs = 0;                    // passes over the training images, parts included
  double seconds = 0, train_images_per_s = 0;
};

// What a contender costs; equal for all its trainings.
struct CompareCost {
  int64_t parameters = 0;
  double gflop = 0;                     // one image forward, by the mechanism's definition
  double ms_per_image = 0, images_per_s = 0;  // inference
  double inference_memory_mib = 0, training_memory_mib = 0;  // weights, activations and scratch; the latter with gradients and optimizer
};

// One point of a growth curve.
struct GrowthPoint {
  int64_t contender = 0;
  bool model = false;                   // the whole model's inference over pixels; else the attention alone, forward and backward, over tokens
  int64_t height = 0, width = 0;        // pixels, or the map's tokens
  double ms = 0, memory_mib = 0;        // NaN where not measured
  std::string why;                      // not measured: the reason
};

struct CompareResult {
  std::string out, model, data, split;  // split: the images that accuracy was measured on
  int64_t images = 0;                   // of it
  int64_t train_images = 0, classes = 0, height = 0, width = 0, batch = 0;
  std::vector<std::string> attentions;
  std::vector<CompareTrial> trials;
  std::vector<CompareCost> costs;       // by contender
  std::vector<GrowthPoint> growth;
  std::vector<std::string> notes;
  std::string verdict;                  // plain words
};

struct CompareProgress {
  std::string what;                     // "window, seed 1 of 3: epoch 2/5"
  double done = 0;                      // share of the whole, 0..1
  double seconds_left = 0;              // NaN: not known yet
};

class CompareObserver {
 public:
  virtual ~CompareObserver() = default;
  virtual void on_progress(const CompareProgress&) {}
  virtual void on_trial(const CompareTrial&, const std::string& /* attention */) {}
  virtual void on_message(const std::string&) {}
  virtual bool stop_requested() { return false; }  // true: what is done is saved, and compare() throws Interrupted
};

// compare() was stopped by its observer; the same call continues.
class Interrupted : public Error {
 public:
  using Error::Error;
};

// Trains, measures and writes out/report.html, trials.csv, contenders.csv, growth.csv and compare.json. Throws Error before
// anything is trained when a contender cannot run, with the reasons of all of them.
CompareResult compare(const CompareOptions& options, CompareObserver& observer);

}  // namespace fovea
