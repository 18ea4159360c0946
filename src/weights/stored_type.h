// Element types as files store them: more than the engine computes in. Everything is converted when it is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace fovea {

enum class StoredType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

size_t size_of(StoredType t);
std::string_view name_of(StoredType t);                               // safetensors' names: "F32", "BF16", "BOOL", ...
std::optional<StoredType> stored_type_named(std::string_view name);   // by safetensors' name
std::optional<StoredType> stored_type_of(DType t);                    // nullopt for kDual, which is never stored

// Converts `count` elements that lie `stride` elements apart at `from` (any alignment, little endian) to `out`.
// Rounds to nearest where the target is narrower; kBool gives 0 or 1.
void convert_elements(StoredType type, const std::byte* from, int64_t stride, int64_t count, float* out);
void convert_elements(StoredType type, const std::byte* from, int64_t stride, int64_t count, double* out);

}  // namespace fovea
