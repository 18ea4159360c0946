// Any bytes decode to a picture or give an Error.
#include <cstddef>
#include <cstdint>

#include "fovea/error.h"
#include "image/decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const fovea::Image image = fovea::decode_image({data, size}, "fuzz", {.max_pixels = 1 << 20});
    if (image.channels != 3 || image.pixels.size() != size_t{3} * static_cast<size_t>(image.width) *
                                                          static_cast<size_t>(image.height))
      __builtin_trap();
  } catch (const fovea::Error&) {
  }
  return 0;
}
