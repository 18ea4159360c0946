// Any text, as the configuration in a weights file, as a config.json or preprocessor_config.json beside one, or as the index of a sharded
// checkpoint, is read or gives an Error; a configuration that is read says the same when it is written and read again.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/check.h"
#include "models/config.h"
#include "tasks/stated_input.h"
#include "weights/shard_index.h"

namespace {

// A folder that the process keeps while it lives.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fovea-fuzz-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) __builtin_trap();
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string written = fovea::to_json(fovea::config_from_json(text, "fuzz"));
    if (fovea::to_json(fovea::config_from_json(written, "fuzz")) != written) __builtin_trap();
  } catch (const fovea::Error&) {
  }
  try {
    (void)fovea::looks_like_shard_index(text);
    (void)fovea::parse_shard_index({"fuzz", std::as_bytes(std::span(text)), nullptr});
  } catch (const fovea::Error&) {
  }
  static const Folder kFolder;
  for (const char* name : {"config.json", "preprocessor_config.json"}) std::ofstream(kFolder / name, std::ios::binary) << text;
  try {
    (void)fovea::stated_beside(kFolder / "model.safetensors");
  } catch (const fovea::Error&) {
  }
  return 0;
}
