// The configuration of a model that another code base has saved: from the shapes in the file, its name, configuration files
// beside it and the user's settings; what is left is assumed and said. And the other way round: what a file of a model would say.
#pragma once

#include "fovea/model.h"
#include "models/config.h"
#include "weights/key_map.h"

namespace fovea {

// `size`: the input size that the user asked for, or zeros; it decides where the file does not tell. Where nothing was asked for and
// a file beside states the size of pictures, it becomes that one, which may be another than that of the weights' position table.
// Throws Error saying what to set when the file does not tell and nothing can be assumed.
ModelConfig stranger_config(const WeightFile& file, const RecognisedModel& model, const Settings& settings,
                            std::pair<int64_t, int64_t>& size, std::vector<std::string>& assumed);

// The facts of a model as recognisers state them (key_map.h), for writing it in a dialect.
RecognisedModel facts_of(const ModelConfig& config);

// An attention that is asked for in place of the one that a file's model has. Where both are windows, what is left out of it is as it
// was: the home's rules, and the window that a table of biases is for.
std::string complete_windows(const ModelConfig& known, const std::string& asked);

}  // namespace fovea
