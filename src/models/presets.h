// The presets of each family; model_presets() in config.h has them all.
#pragma once

#include "models/config.h"

namespace fovea {

std::vector<ModelPreset> vit_presets();
std::vector<ModelPreset> swin_presets();  // Swin, Swin V2, CSWin

// Square images, of whose resized form the middle is taken.
inline void set_input_size(ModelConfig& c, int64_t size, double crop) {
  c.input.height = c.input.width = size;
  c.input.crop_pct = crop;
}

}  // namespace fovea
