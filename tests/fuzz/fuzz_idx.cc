// Any bytes either parse as IDX, with as many values as the sizes say, or give an Error.
#include <vector>

#include "core/check.h"
#include "image/dataset_idx.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const fovea::IdxArray array = fovea::parse_idx({data, size}, "fuzz");
    int64_t count = 1;
    for (const int64_t n : array.dims) count *= n;
    if (static_cast<int64_t>(array.values.size()) != count) __builtin_trap();
  } catch (const fovea::Error&) {
  }
  return 0;
}
