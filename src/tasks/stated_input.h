// What configuration files beside a checkpoint state about its input and its classes: timm's config.json, Hugging Face's
// preprocessor_config.json and config.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/config.h"

namespace fovea {

// In the terms of InputConfig; what is not stated is empty. A file that states a part states the rest of it by its package's defaults.
struct StatedInput {
  std::string file;                                   // that states the preprocessing: its name, for messages
  std::optional<std::pair<int64_t, int64_t>> size;    // height and width that pictures end up with
  std::vector<double> mean, std;
  std::optional<double> crop;
  std::optional<std::vector<int64_t>> resize_size;    // for pictures of `size`, stated with it
  std::optional<std::string> interpolation, resize, crop_rounding;
  std::vector<std::string> class_names;               // in the order of the head
};

// Reads config.json and preprocessor_config.json in the folder of the weights file `path`, or in the folder `path`. Without them, or
// with files of another kind, nothing is stated. Throws Error naming the file where a stated value makes no sense.
StatedInput stated_beside(const std::string& path);

// Takes over what is stated; of mean and std only as many as `input` has channels. Its height and width are left alone: they belong to
// the weights, and resize_size is scaled to them.
void apply_stated(const StatedInput& stated, InputConfig& input);

}  // namespace fovea
