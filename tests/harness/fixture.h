// One case of a reference implementation: inputs, weights, outputs and gradients in a safetensors file whose metadata
// entry "config" is JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "harness/host_tensor.h"
#include "weights/weight_file.h"

namespace fovea::harness {

class Fixture {
 public:
  explicit Fixture(const std::string& path);

  nlohmann::json config;
  WeightFile file;

  bool has(const std::string& name) const { return file.find(name) != nullptr; }
  HostTensor tensor(const std::string& name, DType dtype = DType::kF64) const;  // floats; throws when absent
  std::vector<int32_t> ints(const std::string& name) const;                     // int32 or uint8 tensors
  std::vector<std::string> names(const std::string& prefix) const;              // in the file's order, prefix included
};

}  // namespace fovea::harness
