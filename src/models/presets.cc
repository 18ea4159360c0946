#include "models/presets.h"

#include <algorithm>

#include "core/text.h"

namespace fovea {

namespace {

// By family; first of each the small ones for small images.
std::vector<ModelPreset> all_presets() {
  std::vector<ModelPreset> p = vit_presets();
  for (ModelPreset& preset : swin_presets()) p.push_back(std::move(preset));
  for (const ModelPreset& preset : p) validate(preset.config);
  return p;
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> presets = all_presets();
  return presets;
}

const ModelPreset* find_preset(const std::string& name) {
  for (const ModelPreset& p : model_presets())
    if (p.config.name == name || std::find(p.aliases.begin(), p.aliases.end(), name) != p.aliases.end()) return &p;
  return nullptr;
}

ModelConfig preset_config(const std::string& name) {
  if (const ModelPreset* p = find_preset(name)) return p->config;
  std::vector<std::string> names;
  for (const ModelPreset& p : model_presets()) names.push_back(p.config.name);
  fail("there is no model '{}'{}; `fovea list models` shows them all", name, did_you_mean(name, names));
}

}  // namespace fovea
