#include "tasks/json_beside.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace fovea {

namespace {

// 21,843 class names take 2 MiB. A document takes up to forty times its text in memory, and is read more than once.
constexpr std::uintmax_t kLargestFile = std::uintmax_t{4} << 20;

}  // namespace

std::string file_beside(const std::string& path, const char* name) {
  std::error_code error;
  const std::filesystem::path at(path);
  return ((std::filesystem::is_directory(at, error) ? at : at.parent_path()) / name).string();
}

nlohmann::json json_object_in(const std::string& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error) || std::filesystem::file_size(file, error) > kLargestFile) return nullptr;
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  auto j = parse_json<nlohmann::json>(text);
  return j.is_object() ? j : nlohmann::json(nullptr);
}

}  // namespace fovea
