// Parts of a data set: a stratified one held out for validation, and several joined.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image/dataset.h"

namespace fovea {

struct HeldOut {
  DatasetPtr train, val;
  std::vector<std::string> notes;
};

// Holds `images` (0: a tenth) of `all` out, of each class in proportion, at least one and never the last one. Which ones
// depends on `seed` and the labels alone. Throws Error when no class has two images.
HeldOut hold_out(const DatasetPtr& all, int64_t images, uint64_t seed);

// The pictures of all parts, one part after the other; they have the same classes.
DatasetPtr joined(std::vector<DatasetPtr> parts);

std::string with_separators(int64_t n);  // 60,000

}  // namespace fovea
