// Weights load strictly: every wanted tensor is there with its shape, and nothing is left over.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "weights/key_map.h"

namespace fovea {

struct WantedTensor {
  std::string name;
  Shape shape;
};

// Throws one Error that lists all that is missing, unexpected and wrongly shaped; names that differ in numbers alone are put
// together ('blocks.{0-11}.norm{1,2}.bias'). `model` names what the weights are for, e.g. "swin_tiny_patch4_window7_224";
// `remark` is asked for the end of the message.
void require_match(std::span<const WantedTensor> wanted, const MappedWeights& weights, std::string_view model,
                   const std::function<std::string()>& remark = {});

// Names with the numbers in which they differ put together, in their order; every name is in exactly one of the results.
std::vector<std::string> put_together(std::span<const std::string> names);

}  // namespace fovea
