// What a checkpoint's home does to pictures by custom, for files beside which nobody says it and whose names are no preset's.
#pragma once

#include <string_view>

#include "models/config.h"

namespace fovea {

// Sets how pictures are fitted and normalised in `config.input`; its channels and its size are known by now, and the architecture.
// `dialect`: the name in key_map.h.
void apply_customs(std::string_view dialect, ModelConfig& config);

}  // namespace fovea
