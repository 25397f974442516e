// The element types of kernels, all computed with as float32. Rule: a kernel is a template over these, never over vendor types, so
// that it also compiles for the emulator.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"

#if !defined(HEDDLE_CUDA_EMULATED)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace heddle::cuda {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }

#if defined(HEDDLE_CUDA_EMULATED)
__device__ __forceinline__ float to_float(float16 x) { return float16_to_float(x.bits); }
__device__ __forceinline__ void from_float(float x, bfloat16& y) { y.bits = float_to_bfloat16(x); }
__device__ __forceinline__ void from_float(float x, float16& y) { y.bits = float_to_float16(x); }
#else
__device__ __forceinline__ float to_float(float16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ __forceinline__ void from_float(float x, bfloat16& y) { y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ __forceinline__ void from_float(float x, float16& y) { y.bits = __half_as_ushort(__float2half_rn(x)); }
#endif
__device__ __forceinline__ void from_float(float x, float& y) { y = x; }

template <class T>
__device__ __forceinline__ T number(float x) {
  T y;
  from_float(x, y);
  return y;
}

// x as a value of type T holds it.
template <class T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(number<T>(x));
}

// Two neighbours in 32 bits, the first in the low half: how 16-bit elements lie in memory and in mma fragments.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  return uint32_t{number<T>(low).bits} | uint32_t{number<T>(high).bits} << 16;
}
template <class T>
__device__ __forceinline__ float2 unpack(uint32_t pair) {
  return make_float2(to_float(T{static_cast<uint16_t>(pair & 0xffffu)}), to_float(T{static_cast<uint16_t>(pair >> 16)}));
}

// N neighbouring elements, loaded and stored at once. The address is aligned to their size.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T elements[N];
};

// Calls `body` with a value of the element type that `dtype` names: with_type(x.dtype, [&](auto t) { kernel<decltype(t)>… }).
template <class Body>
void with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::float32: return body(float{});
    case DType::bfloat16: return body(bfloat16{});
    case DType::float16: return body(float16{});
  }
}

}  // namespace heddle::cuda
