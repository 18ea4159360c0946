// Writing NumPy's .npz archives: a zip with one uncompressed NAME.npy for each array, which numpy.load opens.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "weights/safetensors.h"

namespace fovea {

// Texts as an array of rank one; bytes that are no UTF-8 become U+FFFD.
struct TextArray {
  std::string name;
  std::vector<std::string> values;
};

// Writes atomically (see AtomicFile); the bytes depend only on the arguments. bf16 is written as two raw bytes ('V2'), which is how
// NumPy keeps what it has no type for. Throws Error when two names are equal, or writing fails.
void write_npz(const std::string& path, std::span<const TensorToWrite> tensors, std::span<const TextArray> texts = {});

}  // namespace fovea
