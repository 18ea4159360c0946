#include "tasks/stated_architecture.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "tasks/json_beside.h"

namespace fovea {

namespace {

using ArchitectureJson = nlohmann::json;

// Hugging Face's names of activations.
constexpr std::pair<std::string_view, std::string_view> kActivations[] = {
    {"gelu", "gelu"},           {"gelu_python", "gelu"}, {"gelu_new", "gelu_tanh"}, {"gelu_pytorch_tanh", "gelu_tanh"},
    {"gelu_fast", "gelu_tanh"}, {"relu", "relu"},        {"quick_gelu", "quick_gelu"}, {"silu", "silu"},
    {"swish", "silu"}};

template <class T>
T stated(const ArchitectureJson& j, const char* key, T otherwise) {
  T value{};
  const auto it = j.find(key);
  return it != j.end() && read_json(*it, value) ? value : otherwise;  // of another kind than expected: as if it were not stated
}

}  // namespace

StatedArchitecture stated_architecture_beside(const std::string& path) {
  StatedArchitecture s;
  const std::string file = file_beside(path, "config.json");
  ArchitectureJson j = json_object_in(file);
  if (const auto tower = j.find("vision_config"); tower != j.end() && tower->is_object()) j = ArchitectureJson(*tower);  // of two, that of images
  s.heads = stated<int64_t>(j, "num_attention_heads", 0);
  s.norm_epsilon = stated<double>(j, "layer_norm_eps", 0);
  s.preset = stated<std::string>(j, "architecture", "");
  s.pool = stated<std::string>(j, "global_pool", "");
  if (const std::string activation = stated<std::string>(j, "hidden_act", ""); !activation.empty()) {
    for (const auto& [theirs, ours] : kActivations)
      if (activation == theirs) s.activation = ours;
    require(!s.activation.empty(), "'{}' states the activation {}, which fovea's models do not have; --set activation=NAME chooses one that they have", file,
            activation);
  }
  if (const auto args = j.find("model_args"); args != j.end() && args->is_object()) {
    s.heads = stated<int64_t>(*args, "num_heads", s.heads);
    s.pool = stated<std::string>(*args, "global_pool", s.pool);
    if (const std::string positions = stated<std::string>(*args, "pos_embed", "learn"); positions.empty() || positions == "none") s.positions = false;
    if (const std::string activation = stated<std::string>(*args, "act_layer", ""); activation == "quick_gelu" || activation == "gelu_tanh") s.activation = activation;
  }
  return s;
}

}  // namespace fovea
