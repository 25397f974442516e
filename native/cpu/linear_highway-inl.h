// Weights of every dtype as float vectors, for the Highway files of the linear layer, compiled once per instruction
// set. Rule: every conversion is exact, and rounding x to bfloat16 is the same here as in core/dtype.h.
#if defined(HEDDLE_CPU_LINEAR_HIGHWAY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_CPU_LINEAR_HIGHWAY_INL_H_
#undef HEDDLE_CPU_LINEAR_HIGHWAY_INL_H_
#else
#define HEDDLE_CPU_LINEAR_HIGHWAY_INL_H_
#endif

#include "core/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D kD;
constexpr hn::RebindToUnsigned<D> kBits;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(kD));

constexpr bool kFewRegisters = HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2;  // 16 rather than 32

// Weights as float vectors. Two vectors come in natural order, or bfloat16 even ones first (`kSplit`): a shift and a
// mask widen them then, and packed x stands in the same order.
struct Float32Weights {
  using Stored = float;
  static constexpr bool kSplit = false;
  static HWY_INLINE V first(const float* w) { return hn::LoadU(kD, w); }
  static HWY_INLINE V second(const float* w) { return hn::LoadU(kD, w + kLanes); }
  static HWY_INLINE V natural(const float* w) { return hn::LoadU(kD, w); }
  static float scalar(float w) { return w; }
};

struct Bfloat16Weights {
  using Stored = uint16_t;
  static constexpr bool kSplit = true;
  static HWY_INLINE hn::Vec<decltype(kBits)> pairs(const uint16_t* w) {
    return hn::BitCast(kBits, hn::LoadU(hn::Repartition<uint16_t, D>(), w));
  }
  static HWY_INLINE V first(const uint16_t* w) { return hn::BitCast(kD, hn::ShiftLeft<16>(pairs(w))); }
  static HWY_INLINE V second(const uint16_t* w) {
    return hn::BitCast(kD, hn::And(pairs(w), hn::Set(kBits, 0xffff0000u)));
  }
  static HWY_INLINE V natural(const uint16_t* w) {
    const hn::Rebind<uint16_t, D> half;
    return hn::BitCast(kD, hn::ShiftLeft<16>(hn::PromoteTo(kBits, hn::LoadU(half, w))));
  }
  static float scalar(uint16_t w) { return bfloat16_to_float(w); }
};

struct Float16Weights {
  using Stored = uint16_t;
  static constexpr bool kSplit = false;
#if HWY_TARGET == HWY_SSE4
  // Highway's own emulation takes infinities for numbers. Exponent and fraction move into place and a product corrects
  // the bias.
  static HWY_INLINE V natural(const uint16_t* w) {
    const auto bits = hn::PromoteTo(kBits, hn::LoadU(hn::Rebind<uint16_t, D>(), w));
    const auto magnitude = hn::And(bits, hn::Set(kBits, 0x7fff));
    const V scaled = hn::Mul(hn::BitCast(kD, hn::ShiftLeft<13>(magnitude)), hn::Set(kD, 0x1p112f));
    const V special = hn::BitCast(kD, hn::Or(hn::ShiftLeft<13>(magnitude), hn::Set(kBits, 0x7f800000u)));
    const auto is_special = hn::RebindMask(kD, hn::Gt(magnitude, hn::Set(kBits, 0x7bff)));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, magnitude));
    return hn::Or(hn::IfThenElse(is_special, special, scaled), hn::BitCast(kD, sign));
  }
#else
  static HWY_INLINE V natural(const uint16_t* w) {
    const hn::Rebind<hwy::float16_t, D> half;
    return hn::PromoteTo(kD, hn::BitCast(half, hn::LoadU(hn::Rebind<uint16_t, D>(), w)));
  }
#endif
  static HWY_INLINE V first(const uint16_t* w) { return natural(w); }
  static HWY_INLINE V second(const uint16_t* w) { return natural(w + kLanes); }
  static float scalar(uint16_t w) { return float16_to_float(w); }
};

// To the nearest bfloat16, ties to even, still as float32; NaN stays NaN.
HWY_INLINE V round_to_bfloat16(V value) {
  const auto bits = hn::BitCast(kBits, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kBits, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(kBits, 0x7fff)));
  const auto kept = hn::And(rounded, hn::Set(kBits, 0xffff0000u));
  return hn::IfThenElse(hn::IsNaN(value), value, hn::BitCast(kD, kept));
}

}  // namespace
}  // namespace heddle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
