// Any bytes either parse as safetensors, and then every tensor can be read, or give an Error.
#include <vector>

#include "core/check.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const fovea::WeightFile file = fovea::parse_safetensors({"fuzz", std::as_bytes(std::span(data, size)), nullptr});
    for (const fovea::WeightTensor& t : file.tensors()) {
      std::vector<float> values(static_cast<size_t>(t.elements()));
      t.read(values.data());
    }
  } catch (const fovea::Error&) {
  }
  return 0;
}
