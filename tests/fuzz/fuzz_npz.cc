// Any bytes, as an archive or as the header of an array in one, either give arrays that can be read or an Error.
#include "core/check.h"
#include "read_weights.h"
#include "weights/npy_header.h"
#include "weights/npz.h"
#include "weights/zip_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    if (fovea::parse_npy_header(bytes, "fuzz").data_begin > size) __builtin_trap();
  } catch (const fovea::Error&) {
  }
  try {
    fovea::ZipArchive zip({"fuzz", bytes, nullptr});
    (void)fovea::looks_like_npz(zip);
    read_every_tensor(fovea::read_npz(zip));
  } catch (const fovea::Error&) {
  }
  return 0;
}
