// Element types. f64 and dual exist for the oracle: the reference tables run whole models in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/dual.h"

namespace fovea {

enum class DType : uint8_t { kF32, kF64, kDual, kBF16, kF16, kI32, kI64, kU8, kI8 };

constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF64:
    case DType::kI64: return 8;
    case DType::kDual: return 16;
    case DType::kBF16:
    case DType::kF16: return 2;
    case DType::kU8:
    case DType::kI8: return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType t) {
  switch (t) {
    case DType::kF32: return "f32";
    case DType::kF64: return "f64";
    case DType::kDual: return "dual";
    case DType::kBF16: return "bf16";
    case DType::kF16: return "f16";
    case DType::kI32: return "i32";
    case DType::kI64: return "i64";
    case DType::kU8: return "u8";
    case DType::kI8: return "i8";
  }
  return "?";
}

// dtype_of<T>: the DType of a C++ scalar; left undefined for other types.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "no DType for this type");
  return DType::kF32;
}();
template <> inline constexpr DType dtype_of<float> = DType::kF32;
template <> inline constexpr DType dtype_of<double> = DType::kF64;
template <> inline constexpr DType dtype_of<Dual> = DType::kDual;
template <> inline constexpr DType dtype_of<int32_t> = DType::kI32;
template <> inline constexpr DType dtype_of<int64_t> = DType::kI64;
template <> inline constexpr DType dtype_of<uint8_t> = DType::kU8;
template <> inline constexpr DType dtype_of<int8_t> = DType::kI8;

// How a matrix product of activations A and weights B reads its operands. A, the result and what is done to it are in the
// kernel table's dtype all the same, and sums are f32 (of int8: exact).
enum class ProductType : uint8_t {
  kOwn,   // in the table's dtype
  kBF16,  // A and B rounded to bfloat16
  kInt8,  // to integers of at most 127: B by a scale for each column, A by a scale for each row, found when the row is read
};

}  // namespace fovea
