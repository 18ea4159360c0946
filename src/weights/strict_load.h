// Weights load strictly: every wanted tensor is there with its shape, and nothing is left over.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "weights/key_map.h"

namespace fovea {

struct WantedTensor {
  std::string name;
  Shape shape;
};

// Throws one Error that lists what is missing, unexpected and wrongly shaped (some of each, then "and N more"); `model` names
// what the weights are for, e.g. "swin_tiny_patch4_window7_224".
void require_match(std::span<const WantedTensor> wanted, const MappedWeights& weights, std::string_view model);

}  // namespace fovea
