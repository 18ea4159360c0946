#include "weights/wrapper_prefix.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace fovea {

namespace {

constexpr std::array<std::string_view, 8> kWrapperPrefixes{
    "module.", "_orig_mod.", "model.", "net.", "state_dict.", "model_state_dict.", "model_ema.", "state_dict_ema."};
constexpr std::string_view kCounter = "n_averaged";  // torch.optim.swa_utils.AveragedModel

}  // namespace

std::string wrapper_prefix(std::span<const WeightTensor> tensors) {
  std::string prefix;
  const auto all_go_on_with = [&](std::string_view next) {
    const std::string longer = prefix + std::string(next), counter = prefix + std::string(kCounter);
    bool any = false;
    for (const WeightTensor& t : tensors) {
      if (t.name.size() > longer.size() && t.name.starts_with(longer)) any = true;
      else if (t.name != kCounter && t.name != counter) return false;
    }
    return any;
  };
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view next : kWrapperPrefixes)
      if (all_go_on_with(next)) {
        prefix += next;
        found = true;
      }
  }
  return prefix;
}

}  // namespace fovea
