// The windows that a config.json beside a checkpoint states, in timm's or Hugging Face's manner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fovea {

// What is not stated stays empty.
struct HomeWindows {
  std::vector<std::string> sizes;         // "8" or "8x12"; one, or one for each stage
  std::vector<std::string> pretrained;    // likewise; "0": none
  std::string architecture;               // timm's name of the model
  std::optional<std::pair<int64_t, int64_t>> image;  // height, width
};

// Reads config.json in the folder of the weights file `path`. Without one, or with one of another kind, nothing is stated.
HomeWindows windows_beside(const std::string& path);

}  // namespace fovea
