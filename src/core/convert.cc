#include "core/convert.h"

#include <bit>
#include <cmath>

namespace fovea {

float from_bf16(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

uint16_t to_bf16(float f) {  // round to nearest even; NaN stays NaN
  uint32_t u = std::bit_cast<uint32_t>(f);
  if (std::isnan(f)) return static_cast<uint16_t>((u >> 16) | 0x40);
  u += 0x7fff + ((u >> 16) & 1);
  return static_cast<uint16_t>(u >> 16);
}

namespace {

float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t e = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | e << 23 | mantissa << 13);
}

uint16_t to_f16(float f) {  // round to nearest even
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  const float a = std::fabs(f);
  if (std::isnan(f)) return sign | 0x7e00;
  if (a >= 65520.0f) return sign | 0x7c00;
  if (a < 0x1p-14f) return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(a * 0x1p24f)));
  uint32_t v = std::bit_cast<uint32_t>(a);
  v += 0xfff + ((v >> 13) & 1);
  return static_cast<uint16_t>(sign | ((v >> 13) - (112 << 10)));
}

}  // namespace

double load_scalar(const ConstTensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF32: return static_cast<const float*>(t.data)[i];
    case DType::kF64: return static_cast<const double*>(t.data)[i];
    case DType::kDual: return static_cast<const Dual*>(t.data)[i].v;
    case DType::kBF16: return from_bf16(static_cast<const uint16_t*>(t.data)[i]);
    case DType::kF16: return from_f16(static_cast<const uint16_t*>(t.data)[i]);
    case DType::kI32: return static_cast<const int32_t*>(t.data)[i];
    case DType::kI64: return static_cast<double>(static_cast<const int64_t*>(t.data)[i]);
    case DType::kU8: return static_cast<const uint8_t*>(t.data)[i];
    case DType::kI8: return static_cast<const int8_t*>(t.data)[i];
  }
  return 0;
}

void store_scalar(const Tensor& t, int64_t i, double v) {
  switch (t.dtype) {
    case DType::kF32: static_cast<float*>(t.data)[i] = static_cast<float>(v); return;
    case DType::kF64: static_cast<double*>(t.data)[i] = v; return;
    case DType::kDual: static_cast<Dual*>(t.data)[i] = Dual(v); return;
    case DType::kBF16: static_cast<uint16_t*>(t.data)[i] = to_bf16(static_cast<float>(v)); return;
    case DType::kF16: static_cast<uint16_t*>(t.data)[i] = to_f16(static_cast<float>(v)); return;
    case DType::kI32: static_cast<int32_t*>(t.data)[i] = static_cast<int32_t>(v); return;
    case DType::kI64: static_cast<int64_t*>(t.data)[i] = static_cast<int64_t>(v); return;
    case DType::kU8: static_cast<uint8_t*>(t.data)[i] = static_cast<uint8_t>(v); return;
    case DType::kI8: static_cast<int8_t*>(t.data)[i] = static_cast<int8_t>(v); return;
  }
}

void convert(const ConstTensor& from, const Tensor& to) {
  check(from.elements() == to.elements(), "convert: {} elements into {}", from.elements(), to.elements());
  if (from.dtype == to.dtype) {
    if (from.bytes() != 0) std::memmove(to.data, from.data, from.bytes());
    return;
  }
  const int64_t n = from.elements();
  for (int64_t i = 0; i < n; ++i) store_scalar(to, i, load_scalar(from, i));
}

}  // namespace fovea
