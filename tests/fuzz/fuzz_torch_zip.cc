// Any bytes, as a whole archive or as the pickle in one, either give tensors that can be read or an Error.
#include <vector>

#include "core/check.h"
#include "weights/pickle.h"
#include "weights/torch_zip.h"
#include "weights/zip_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    fovea::parse_pickle(bytes, "fuzz");
  } catch (const fovea::Error&) {
  }
  try {
    fovea::ZipArchive zip({"fuzz", bytes, nullptr});
    const fovea::WeightFile file = fovea::read_torch_zip(zip);
    for (const fovea::WeightTensor& t : file.tensors()) {
      if (t.elements() > 1 << 20) continue;  // an expanded view of one value may be as large as it likes
      std::vector<float> values(static_cast<size_t>(t.elements()));
      t.read(values.data());
    }
  } catch (const fovea::Error&) {
  }
  return 0;
}
