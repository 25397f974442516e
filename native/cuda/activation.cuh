// The activation functions, for the kernels that apply them. Rule: float32, NaN stays NaN, no overflow for finite x.
#pragma once
#include <cuda_runtime.h>

#include "core/backend.h"

namespace heddle::cuda {

__device__ __forceinline__ float sigmoid_times(float x, float exponent) { return x / (1.0f + expf(-exponent)); }

__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::gelu: return 0.5f * x * erfcf(x * -0.70710678f);
    // (1 + tanh(u)) / 2 is the logistic function of 2u, which does not cancel for negative u.
    case Activation::gelu_tanh: return sigmoid_times(x, 1.59576912f * (x + 0.044715f * x * x * x));
    case Activation::relu: return x < 0.0f ? 0.0f : x;
    case Activation::silu: return sigmoid_times(x, x);
  }
  return x;
}

}  // namespace heddle::cuda
