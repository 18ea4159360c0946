#include "weights/stored_type.h"

#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/check.h"

namespace fovea {

static_assert(std::endian::native == std::endian::little, "weights files are little endian and are read in place");

namespace {

struct TypeRow {
  StoredType type;
  size_t size;
  std::string_view name;
};
constexpr std::array<TypeRow, 13> kTypes{{{StoredType::kF64, 8, "F64"},
                                          {StoredType::kF32, 4, "F32"},
                                          {StoredType::kF16, 2, "F16"},
                                          {StoredType::kBF16, 2, "BF16"},
                                          {StoredType::kI64, 8, "I64"},
                                          {StoredType::kI32, 4, "I32"},
                                          {StoredType::kI16, 2, "I16"},
                                          {StoredType::kI8, 1, "I8"},
                                          {StoredType::kU64, 8, "U64"},
                                          {StoredType::kU32, 4, "U32"},
                                          {StoredType::kU16, 2, "U16"},
                                          {StoredType::kU8, 1, "U8"},
                                          {StoredType::kBool, 1, "BOOL"}}};

struct Half {
  uint16_t bits;
  explicit operator float() const {
    // Without branches, for vectors: the product moves the exponent to where floats have it, subnormal numbers included.
    const uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    const uint32_t not_finite = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f) | not_finite | sign);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

struct BFloat16 {
  uint16_t bits;
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

struct Bool {
  uint8_t bits;
  explicit operator float() const { return bits != 0 ? 1.0f : 0.0f; }
  explicit operator double() const { return bits != 0 ? 1.0 : 0.0; }
};

template <class From, class To>
void convert(const std::byte* from, int64_t stride, int64_t count, To* out) {
  if constexpr (std::is_same_v<From, To>) {
    if (stride == 1) {
      if (count != 0) std::memcpy(out, from, static_cast<size_t>(count) * sizeof(To));
      return;
    }
  }
  const int64_t step = stride * static_cast<int64_t>(sizeof(From));
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * step, sizeof(From));
    out[i] = static_cast<To>(value);
  }
}

template <class To>
void convert_to(StoredType type, const std::byte* from, int64_t stride, int64_t count, To* out) {
  switch (type) {
    case StoredType::kF64: return convert<double>(from, stride, count, out);
    case StoredType::kF32: return convert<float>(from, stride, count, out);
    case StoredType::kF16: return convert<Half>(from, stride, count, out);
    case StoredType::kBF16: return convert<BFloat16>(from, stride, count, out);
    case StoredType::kI64: return convert<int64_t>(from, stride, count, out);
    case StoredType::kI32: return convert<int32_t>(from, stride, count, out);
    case StoredType::kI16: return convert<int16_t>(from, stride, count, out);
    case StoredType::kI8: return convert<int8_t>(from, stride, count, out);
    case StoredType::kU64: return convert<uint64_t>(from, stride, count, out);
    case StoredType::kU32: return convert<uint32_t>(from, stride, count, out);
    case StoredType::kU16: return convert<uint16_t>(from, stride, count, out);
    case StoredType::kU8: return convert<uint8_t>(from, stride, count, out);
    case StoredType::kBool: return convert<Bool>(from, stride, count, out);
  }
  check(false, "convert_elements: stored type {} is not one of ours", static_cast<int>(type));
}

}  // namespace

size_t size_of(StoredType t) { return kTypes[static_cast<size_t>(t)].size; }

std::string_view name_of(StoredType t) { return kTypes[static_cast<size_t>(t)].name; }

std::optional<StoredType> stored_type_named(std::string_view name) {
  for (const TypeRow& row : kTypes)
    if (row.name == name) return row.type;
  return std::nullopt;
}

std::optional<StoredType> stored_type_of(DType t) {
  switch (t) {
    case DType::kF32: return StoredType::kF32;
    case DType::kF64: return StoredType::kF64;
    case DType::kBF16: return StoredType::kBF16;
    case DType::kF16: return StoredType::kF16;
    case DType::kI32: return StoredType::kI32;
    case DType::kI64: return StoredType::kI64;
    case DType::kU8: return StoredType::kU8;
    case DType::kI8: return StoredType::kI8;
    case DType::kDual: return std::nullopt;
  }
  return std::nullopt;
}

void convert_elements(StoredType type, const std::byte* from, int64_t stride, int64_t count, float* out) {
  convert_to(type, from, stride, count, out);
}

void convert_elements(StoredType type, const std::byte* from, int64_t stride, int64_t count, double* out) {
  convert_to(type, from, stride, count, out);
}

}  // namespace fovea
