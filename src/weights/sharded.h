// Checkpoints in several files, and folders that hold a checkpoint, as Hugging Face's libraries and timm write them.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "weights/mapped_file.h"
#include "weights/weight_file.h"

namespace fovea {

using ContainerReader = std::function<WeightFile(const FileBytes&)>;

// All tensors of the shards that an index names, opened beside it with `read`. The metadata is that of the shards; where they differ
// the first one's counts. Throws Error when a shard is missing or cannot be read, or when index and shards contradict each other: a tensor
// that lies in another shard, in two, in none, or that the index does not name.
WeightFile read_shards(const FileBytes& index, const ContainerReader& read);

// For a file named as one of several shards (NAME-00001-of-00003.EXT): the path of their index NAME.EXT.index.json; nullopt for all
// others. Throws Error when the index is not there.
std::optional<std::string> index_of_shard(const std::string& path);

// The weights in a folder: model.safetensors, its index, pytorch_model.bin, its index, or the only *.index.json; nullopt without any.
std::optional<std::string> weights_in_folder(const std::string& folder);

}  // namespace fovea
