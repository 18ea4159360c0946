// How a model's configuration says that pictures become its input.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "image/transforms.h"
#include "models/config.h"

namespace fovea {

// For an input of height x width, which may be another size than the configuration's own: its resize_size goes with it, as
// in Microsoft's int(256 / 224 * size).
Preprocess preprocess_of(const InputConfig& input, int64_t height, int64_t width);
// Throws Error where no picture can become the input: of other than 1 or 3 channels.
void require_pictures(const InputConfig& input);
// As text for people: names as for --set, and their values.
std::vector<std::pair<std::string, std::string>> preprocessing_facts(const InputConfig& input);

}  // namespace fovea
