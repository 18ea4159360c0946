// The files that a training run keeps its weights in, as safetensors written atomically:
//   best.safetensors  the weights under timm's names
//   last.safetensors  the same, and `optimizer.m` and `optimizer.v`: AdamW's moments as flat slabs, laid out as
//                     ParamStore::values() (decayed parameters first, each at a multiple of 64 bytes). Readers that want
//                     weights skip every name that starts with "optimizer.".
// Metadata: "fovea.config" is the model's configuration (to_json), "fovea.version", "fovea.epoch"; in last also
// "fovea.training", the TrainingState as JSON, and in best "fovea.validation", what the best epoch reached.
#pragma once

#include <map>
#include <string>

#include "heads/classifier.h"
#include "train/metrics.h"
#include "train/optimizer.h"

namespace fovea {

// Where a run stands. Random numbers are functions of (seed, step) and the order of images one of (seed, epoch), so these
// counters are all the hidden state there is.
struct TrainingState {
  uint64_t seed = 0;
  int64_t epoch = 0;          // complete epochs
  int64_t step = 0;           // updates so far
  int64_t batch = 0;          // batches used of the epoch that was interrupted; 0 at an epoch's end
  RunningMetrics partial;     // of that epoch
  double partial_seconds = 0; // likewise
  int64_t best_epoch = 0;     // 0: none yet
  double best_val_top1 = 0, best_val_loss = 0;
  bool finished = false, stopped_early = false;
};

inline constexpr const char* kOptimizerPrefix = "optimizer.";

inline constexpr const char* kTrainingStateKey = "fovea.training";

using Metadata = std::map<std::string, std::string>;

// What makes a file of a model's weights one of ours: its configuration, and who wrote it.
void add_model_metadata(Metadata& metadata, const Classifier& model);

// Throws Error with the path when the disk is full or the like; what stood there before is untouched then.
void save_weights(const std::string& path, const Classifier& model, Metadata metadata);
void save_checkpoint(const std::string& path, const Classifier& model, const AdamW& optimizer, const TrainingState& state);

// The entry kTrainingStateKey of the file at `path`. Throws Error when it is broken.
TrainingState training_state_from_json(const std::string& text, const std::string& path);

// Fills the model and the optimizer, bit by bit. Throws Error when the file is broken or of another model.
TrainingState load_checkpoint(const std::string& path, Classifier& model, AdamW& optimizer);

}  // namespace fovea
