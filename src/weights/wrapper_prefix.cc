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
    bool any = false;
    for (const WeightTensor& t : tensors) {
      const std::string_view name = t.name;
      if (name.starts_with(prefix) && name.size() > prefix.size() + next.size() && name.substr(prefix.size()).starts_with(next)) any = true;
      else if (name != kCounter && !(name.starts_with(prefix) && name.substr(prefix.size()) == kCounter)) return false;
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
