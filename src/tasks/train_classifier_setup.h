// From the options of a training run to what will be done: model, batch, rates, augmentation, all stated.
#pragma once

#include "heads/classifier.h"
#include "image/dataset.h"
#include "image/loader.h"
#include "tasks/run_directory.h"

namespace fovea {

inline constexpr double kDefaultEpochs = 10;  // of a training without --epochs and --minutes

// Looks at the data and settles everything but the number of steps, which settle_epochs does.
// Throws Error for options that contradict each other, the data or the model.
RunConfig resolve_training(const TrainOptions& options, const DataSplits& data);

// The schedule's length from --epochs, or from --minutes at the measured speed.
void settle_epochs(RunConfig& config, double seconds_per_epoch);

// How images are read for training and for validation; both follow from the configuration alone.
LoaderOptions train_loader_options(const RunConfig& config, int64_t epoch, int64_t first_batch, std::shared_ptr<ImageCache> cache);
LoaderOptions validation_loader_options(const RunConfig& config, std::shared_ptr<ImageCache> cache);

// A batch's images in the context's dtype: as they are, or converted in its scratch memory.
ConstTensor batch_images(const Batch& batch, Context& ctx);

// The model with its first weights: random ones, or those of --init.
std::unique_ptr<Classifier> initial_model(const RunConfig& config, DType dtype, Context& ctx);

}  // namespace fovea
