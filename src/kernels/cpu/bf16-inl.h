// bfloat16 in vectors of floats, per instruction set (see math-inl.h for how to include it).
#if defined(FOVEA_KERNELS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_CPU_BF16_INL_H_
#undef FOVEA_KERNELS_CPU_BF16_INL_H_
#else
#define FOVEA_KERNELS_CPU_BF16_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE {

using DU = hn::RebindToUnsigned<DF>;
using D16 = hn::Rebind<uint16_t, DF>;

// To the nearest bfloat16, ties to even, in the upper halves; the lower ones are rubbish. A NaN stays one.
HWY_INLINE hn::Vec<DU> RoundToBf16(VF v) {
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto nan = hn::Or(bits, hn::Set(du, 0x400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::Eq(v, v)), rounded, nan);
}

// The same as floats.
HWY_INLINE VF RoundedToBf16(VF v) { return hn::BitCast(DF(), hn::And(RoundToBf16(v), hn::Set(DU(), 0xffff0000u))); }

HWY_INLINE VF LoadBf16(const uint16_t* p) {
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), hn::LoadU(D16(), p))));
}
// The first n < lanes elements at p, zeros above; nothing past them is read.
HWY_INLINE VF LoadBf16Tail(const uint16_t* p, size_t n) {
  HWY_ALIGN uint16_t part[hn::MaxLanes(DF())] = {};
  std::memcpy(part, p, n * sizeof(uint16_t));
  return LoadBf16(part);
}

HWY_INLINE void StoreBf16(VF v, uint16_t* p) {
  hn::StoreU(hn::DemoteTo(D16(), hn::BitCast(hn::RebindToSigned<DF>(), hn::ShiftRight<16>(RoundToBf16(v)))), D16(), p);
}
// Stores the first n < lanes elements; nothing past them is touched.
HWY_INLINE void StoreBf16Tail(VF v, uint16_t* p, size_t n) {
  HWY_ALIGN uint16_t part[hn::MaxLanes(DF())];
  StoreBf16(v, part);
  std::memcpy(p, part, n * sizeof(uint16_t));
}

}  // namespace fovea::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FOVEA_KERNELS_CPU_BF16_INL_H_
