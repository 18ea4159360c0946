// Any bytes, as a whole archive or as the pickle in one, either give tensors that can be read or an Error.
#include <array>

#include "core/check.h"
#include "read_weights.h"
#include "weights/pickle.h"
#include "weights/torch_checkpoint.h"
#include "weights/torch_zip.h"
#include "weights/zip_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const fovea::Pickle pickle = fovea::parse_pickle(bytes, "fuzz");
    static constexpr std::array<std::byte, 256> kStorage{};
    read_every_tensor(fovea::read_torch_checkpoint("fuzz", "pickle", pickle, [](const std::string&) { return fovea::FilePart{kStorage, nullptr}; }));
  } catch (const fovea::Error&) {
  }
  try {
    fovea::ZipArchive zip({"fuzz", bytes, nullptr});
    read_every_tensor(fovea::read_torch_zip(zip));
  } catch (const fovea::Error&) {
  }
  return 0;
}
