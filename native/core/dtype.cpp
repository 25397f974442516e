#include "core/dtype.h"

#include <cstring>

namespace heddle {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::bfloat16: return "bfloat16";
    case DType::float16: return "float16";
  }
  return "float32";
}

float float16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals
  return sign ? -magnitude : magnitude;
}

uint16_t float_to_float16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude < 0x38800000u) {                        // subnormal: adding 0.5 shifts the rounding to the right bit
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

namespace {

float read(const void* source, DType dtype, size_t i) {
  switch (dtype) {
    case DType::float32: return static_cast<const float*>(source)[i];
    case DType::bfloat16: return bfloat16_to_float(static_cast<const uint16_t*>(source)[i]);
    case DType::float16: return float16_to_float(static_cast<const uint16_t*>(source)[i]);
  }
  return 0;
}

}  // namespace

void convert(const void* source, DType source_dtype, void* target, DType target_dtype, size_t count) {
  if (source_dtype == target_dtype) {
    std::memcpy(target, source, count * size_of(source_dtype));
    return;
  }
  switch (target_dtype) {
    case DType::float32:
      for (size_t i = 0; i < count; ++i) static_cast<float*>(target)[i] = read(source, source_dtype, i);
      return;
    case DType::bfloat16:
      for (size_t i = 0; i < count; ++i) static_cast<uint16_t*>(target)[i] = float_to_bfloat16(read(source, source_dtype, i));
      return;
    case DType::float16:
      for (size_t i = 0; i < count; ++i) static_cast<uint16_t*>(target)[i] = float_to_float16(read(source, source_dtype, i));
      return;
  }
}

}  // namespace heddle
