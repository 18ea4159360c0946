// The config.json that other code bases want beside a file of weights.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "models/config.h"

namespace fovea {

// Its text for a dialect whose home reads one (Hugging Face; timm, for a model that it has a name for), or nullopt.
std::optional<std::string> home_config(std::string_view dialect, const ModelConfig& config);

// Writes it as a whole. Throws Error when another one stands there: it may belong to other weights in the folder.
void write_beside(const std::string& path, const std::string& text);

}  // namespace fovea
