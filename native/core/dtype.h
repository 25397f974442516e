// Element types of tensors, and the exact conversions between them (round to nearest even, NaN kept).
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace heddle {

enum class DType : uint8_t { float32, bfloat16, float16 };

inline size_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }
const char* name_of(DType dtype);

inline float bfloat16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float float16_to_float(uint16_t bits);
uint16_t float_to_float16(float value);

// Converts `count` elements; source and target do not overlap.
void convert(const void* source, DType source_dtype, void* target, DType target_dtype, size_t count);

}  // namespace heddle
