// What a config.json beside a checkpoint says of a ViT's architecture that its tensors do not tell, in timm's or Hugging Face's manner.
#pragma once

#include <cstdint>
#include <string>

namespace fovea {

// What is not stated stays as it is here.
struct StatedArchitecture {
  int64_t heads = 0;
  double norm_epsilon = 0;
  std::string activation;  // by our names
  std::string pool;        // timm's name: "token", "avg", ...
  bool positions = true;   // false: stated to have none
  std::string preset;      // timm's name of the architecture
};

// Reads config.json in the folder of the weights file `path`. Without one, or with one of another kind, nothing is stated. Throws Error
// for an activation that no model of ours has.
StatedArchitecture stated_architecture_beside(const std::string& path);

}  // namespace fovea
