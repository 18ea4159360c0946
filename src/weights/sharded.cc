#include "weights/sharded.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/check.h"
#include "weights/shard_index.h"

namespace fovea {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexEnd = ".index.json";

bool all_digits(std::string_view s) {
  return !s.empty() && std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; });
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

WeightFile read_shards(const FileBytes& index_file, const ContainerReader& read) {
  const ShardIndex index = parse_shard_index(index_file);
  const fs::path folder = fs::path(index_file.path).parent_path();
  std::map<std::string, WeightFile> shards;
  for (const auto& [tensor, name] : index.shard_of) {
    if (shards.contains(name)) continue;
    const std::string path = (folder / name).string();
    require(is_there(path), "'{}' is missing: '{}' names it as one of the files of the checkpoint (for {})", path, index_file.path, printable(tensor));
    shards.emplace(name, read(map_file(path)));
  }

  std::vector<WeightTensor> tensors;
  WeightFile::Metadata metadata;
  auto memory = std::make_shared<std::vector<WeightFile>>();
  for (const auto& [name, shard] : shards) {
    for (const WeightTensor& t : shard.tensors()) {
      const auto wanted = index.shard_of.find(t.name);
      require(wanted != index.shard_of.end(), "'{}' holds the tensor {}, which '{}' does not name", shard.path(), printable(t.name), index_file.path);
      require(wanted->second == name, "'{}' holds the tensor {}, but '{}' says that it is in '{}'", shard.path(), printable(t.name), index_file.path,
              wanted->second);
      tensors.push_back(t);
    }
    metadata.insert(shard.metadata().begin(), shard.metadata().end());
    memory->push_back(shard);
  }
  for (const auto& [tensor, name] : index.shard_of) {
    const WeightFile& shard = shards.at(name);
    require(shard.find(tensor) != nullptr, "'{}' lacks the tensor {}, which '{}' says is in it", shard.path(), printable(tensor), index_file.path);
  }
  const std::string container = fmt::format("{} in {} files", memory->front().container(), shards.size());
  return WeightFile(index_file.path, container, std::move(tensors), std::move(metadata), std::move(memory));
}

std::optional<std::string> index_of_shard(const std::string& path) {
  const fs::path file(path);
  const std::string stem = file.stem().string();  // NAME-00001-of-00003
  const size_t of = stem.rfind("-of-"), dash = of == std::string::npos || of == 0 ? std::string::npos : stem.rfind('-', of - 1);
  if (dash == std::string::npos) return std::nullopt;
  const std::string_view number = std::string_view(stem).substr(dash + 1, of - dash - 1), count = std::string_view(stem).substr(of + 4);
  if (!all_digits(number) || !all_digits(count) || !is_there(file)) return std::nullopt;
  const std::string index = (file.parent_path() / (stem.substr(0, dash) + file.extension().string() + std::string(kIndexEnd))).string();
  if (is_there(index)) return index;
  const bool alone = count.find_first_not_of('0') == count.size() - 1 && count.back() == '1';
  require(alone, "'{}' is one of several files of a checkpoint, whose index '{}' is not beside it", path, index);
  return std::nullopt;
}

std::optional<std::string> weights_in_folder(const std::string& folder) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (const fs::path path = fs::path(folder) / name; is_there(path)) return path.string();
  std::vector<std::string> indices;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().ends_with(kIndexEnd)) indices.push_back(entry.path().string());
  std::ranges::sort(indices);
  if (indices.size() > 1) fail("'{}' holds several checkpoints; name one of them ('{}', '{}', ...)", folder, indices[0], indices[1]);
  if (indices.empty()) return std::nullopt;
  return indices[0];
}

}  // namespace fovea
