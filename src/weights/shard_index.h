// The index of a checkpoint in several files (huggingface_hub/serialization): {"metadata": {...}, "weight_map": {tensor: file}}.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "weights/mapped_file.h"

namespace fovea {

struct ShardIndex {
  std::map<std::string, std::string> shard_of;  // by tensor; plain file names, in the index's folder
};

// True when the bytes begin as a JSON object does, which no container of weights does.
bool looks_like_shard_index(std::string_view bytes);

// Throws Error when it is no such index, names a tensor twice, or a shard that is no plain file name.
ShardIndex parse_shard_index(const FileBytes& file);

}  // namespace fovea
