// One step of a matrix product on tensor cores, over 32 elements of k. The order in which a sum runs over k is free, so each lane's 8
// consecutive elements stand for the scattered ones that mma asks for, in both operands alike.
#pragma once
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bfloat16) { ptx::mma_bfloat16(d, a, b); }
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float16) { ptx::mma_float16(d, a, b); }

// d += x · weightsᵀ. Of lane l, with g = l / 4, elements from l % 4 * 8 on: `low`, `high` of x rows g and g + 8, `weight` of weight row g.
// d: row g, columns l % 4 * 2 and the one after, then the same of row g + 8.
template <class W>
__device__ __forceinline__ void multiply_step(float (&d)[4], uint4 low, uint4 high, uint4 weight) {
  multiply(d, {low.x, high.x, low.y, high.y}, {weight.x, weight.y}, W{});
  multiply(d, {low.z, high.z, low.w, high.w}, {weight.z, weight.w}, W{});
}

}  // namespace heddle::cuda
