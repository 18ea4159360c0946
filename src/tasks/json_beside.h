// The files in which other code bases keep what a checkpoint's tensors do not tell.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace fovea {

/// Where a file of this name (`config.json`) is to be found: in the weights file's folder, or in the folder `path` itself.
std::string file_beside(const std::string& path, const char* name);

/// The object in a file; null where there is no such file, or one that is no JSON object or larger than any such file.
nlohmann::json json_object_in(const std::string& file);

}  // namespace fovea
