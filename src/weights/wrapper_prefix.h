// What training wrappers put before the names of all weights.
#pragma once

#include <span>
#include <string>

#include "weights/weight_file.h"

namespace fovea {

// What all names begin with because the model was saved inside a wrapper ("module.", "_orig_mod.", "model.", ..., in any combination);
// empty when there is no such thing. The counter that weight averaging keeps beside the model (n_averaged) does not matter.
std::string wrapper_prefix(std::span<const WeightTensor> tensors);

}  // namespace fovea
