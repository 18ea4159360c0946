// The header of NumPy's .npy format (numpy/lib/format.py, versions 1.0 to 3.0): a magic number, a length, and a Python dict of
// 'descr', 'fortran_order' and 'shape' as text. It is read as text of that one form; nothing in it is evaluated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "weights/stored_type.h"

namespace fovea {

struct NpyHeader {
  StoredType type = StoredType::kF32;
  bool fortran_order = false;  // the first index moves fastest
  std::vector<int64_t> shape;  // no negative sizes; their product may still overflow
  size_t data_begin = 0;       // where the elements begin
};

// Throws Error beginning with `what` when the header is broken, or the elements are big endian or none of the stored types. Two-byte
// raw values ('V2') are taken as bfloat16, which is how NumPy saves what JAX computes in it.
NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view what);

}  // namespace fovea
