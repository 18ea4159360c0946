// The preprocessing that configuration files beside a checkpoint state, in timm's or Hugging Face's manner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fovea {

// What is not stated stays empty or zero.
struct StatedInput {
  std::vector<double> mean, std;
  double crop = 0;
  std::string interpolation;
  std::vector<int64_t> size;  // channels, height, width
};

// Reads config.json in the folder of the weights file `path`. Without one, or with one of another kind, nothing is stated.
StatedInput stated_beside(const std::string& path);

}  // namespace fovea
