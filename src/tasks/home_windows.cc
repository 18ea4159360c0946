#include "tasks/home_windows.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/json.h"
#include "tasks/json_beside.h"

namespace fovea {

namespace {

using WindowJson = nlohmann::json;

constexpr size_t kMostNumbers = 64;

std::optional<int64_t> number_in(const WindowJson& j) {
  int64_t n = 0;
  return read_json(j, n) && n >= 0 && n <= 16384 ? std::optional(n) : std::nullopt;
}

// A number, or one or a [height, width] for each stage.
std::vector<std::string> sizes_in(const WindowJson& j, const char* key) {
  std::vector<std::string> out;
  const auto at = j.find(key);
  if (at == j.end()) return out;
  if (const auto n = number_in(*at)) return {fmt::format("{}", *n)};
  if (!at->is_array() || at->size() > kMostNumbers) return out;
  for (const WindowJson& item : *at) {
    if (const auto n = number_in(item)) {
      out.push_back(fmt::format("{}", *n));
    } else if (item.is_array() && item.size() == 2 && number_in(item[0]) && number_in(item[1])) {
      out.push_back(fmt::format("{}x{}", *number_in(item[0]), *number_in(item[1])));
    } else {
      return {};
    }
  }
  return out;
}

std::optional<std::pair<int64_t, int64_t>> image_in(const WindowJson& j, const char* key) {
  const auto at = j.find(key);
  if (at == j.end()) return std::nullopt;
  if (const int64_t n = number_in(*at).value_or(0); n > 0) return std::pair(n, n);
  if (!at->is_array() || at->size() < 2) return std::nullopt;
  const size_t first = at->size() - 2;  // [height, width], timm's with the channels before
  const int64_t h = number_in((*at)[first]).value_or(0), w = number_in((*at)[first + 1]).value_or(0);
  return h > 0 && w > 0 ? std::optional(std::pair(h, w)) : std::nullopt;
}

}  // namespace

HomeWindows windows_beside(const std::string& path) {
  HomeWindows h;
  const WindowJson j = json_object_in(file_beside(path, "config.json"));
  if (const auto at = j.find("architecture"); at != j.end() && at->is_string()) h.architecture = at->get<std::string>();
  h.image = image_in(j, "image_size");
  if (const auto cfg = j.find("pretrained_cfg"); cfg != j.end() && cfg->is_object()) h.image = image_in(*cfg, "input_size");
  // timm's own options stand in model_args.
  const auto args = j.find("model_args");
  const WindowJson& options = args != j.end() && args->is_object() ? *args : j;
  h.sizes = sizes_in(options, "window_size");
  h.pretrained = sizes_in(options, "pretrained_window_sizes");
  if (const auto image = image_in(options, "img_size")) h.image = image;
  return h;
}

}  // namespace fovea
