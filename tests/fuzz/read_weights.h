// What the fuzzers of weights files do with a file that was opened: read every tensor.
#pragma once

#include <vector>

#include "weights/weight_file.h"

inline void read_every_tensor(const fovea::WeightFile& file) {
  for (const fovea::WeightTensor& t : file.tensors()) {
    std::vector<float> values(static_cast<size_t>(t.elements()));
    t.read(values.data());
    t.release();
  }
}
