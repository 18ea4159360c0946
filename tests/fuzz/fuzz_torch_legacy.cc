// Any bytes, as a whole file or as what follows the fixed beginning of one, either give tensors that can be read or an Error.
#include <string>
#include <string_view>

#include "core/check.h"
#include "read_weights.h"
#include "weights/torch_legacy.h"

namespace {

// The magic number, the version and an empty dict: what every file begins with.
constexpr std::string_view kBeginning("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.", 25);

void read(std::string_view bytes) {
  try {
    (void)fovea::looks_like_torch_legacy(bytes);
    (void)fovea::looks_like_torch_tar(bytes);
    read_every_tensor(fovea::read_torch_legacy({"fuzz", std::as_bytes(std::span(bytes)), nullptr}));
  } catch (const fovea::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  read(std::string(kBeginning).append(bytes));
  return 0;
}
