// Any text, as the configuration in a weights file or the index of a sharded checkpoint, is read or gives an Error; a configuration
// that is read says the same when it is written and read again.
#include <string>
#include <string_view>

#include "core/check.h"
#include "models/config.h"
#include "weights/shard_index.h"

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
  return 0;
}
