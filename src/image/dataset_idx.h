// IDX files (the format of MNIST): a big-endian header and bytes, often compressed with gzip.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/dataset.h"

namespace fovea {

inline constexpr int64_t kMaxDeflateRatio = 1032;  // of zlib's format: no file expands more

struct IdxArray {
  std::vector<int64_t> dims;
  std::vector<uint8_t> values;  // row-major
};

// The array of unsigned bytes in `bytes`, plain or gzip. Takes no more memory than the file can fill. `name` is used in
// messages only. Throws Error when the file is cut off, too long, corrupt or not of this kind.
IdxArray parse_idx(std::span<const uint8_t> bytes, std::string_view name);

// One part of an IDX set.
struct IdxPart {
  std::string images_name, labels_name;
  IdxArray images, labels;  // [N, height, width], [N]
};

// Throws Error when the two do not belong together.
void check_idx_part(const IdxPart& part);

// `class_names` must cover every label.
DatasetPtr idx_dataset(IdxPart part, std::vector<std::string> class_names, std::string source);

}  // namespace fovea
