#include "tasks/stated_input.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace fovea {

namespace {

using ForeignJson = nlohmann::json;

template <class T>
void take(const ForeignJson& j, const char* key, T& out) {
  const auto it = j.find(key);
  if (it == j.end()) return;
  try {
    out = it->get<T>();
  } catch (const ForeignJson::exception&) {  // of another kind than expected: as if it were not stated
  }
}

}  // namespace

StatedInput stated_beside(const std::string& path) {
  StatedInput s;
  std::ifstream in(std::filesystem::path(path).parent_path() / "config.json");
  if (!in) return s;
  ForeignJson j = ForeignJson::parse(in, nullptr, false);
  if (!j.is_object()) return s;
  if (j.contains("pretrained_cfg") && j["pretrained_cfg"].is_object()) j = ForeignJson(j["pretrained_cfg"]);
  take(j, "mean", s.mean);
  take(j, "std", s.std);
  take(j, "crop_pct", s.crop);
  take(j, "interpolation", s.interpolation);
  take(j, "input_size", s.size);
  return s;
}

}  // namespace fovea
