// Any bytes either parse as safetensors, and then every tensor can be read, or give an Error.
#include "core/check.h"
#include "read_weights.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    read_every_tensor(fovea::parse_safetensors({"fuzz", std::as_bytes(std::span(data, size)), nullptr}));
  } catch (const fovea::Error&) {
  }
  return 0;
}
