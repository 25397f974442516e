// Stands in for CUDA's header of the same name: what a .cu file may use, as plain C++.
#pragma once
#include <cuda_runtime_api.h>

#include <cmath>
#include <math.h>
#include <limits>

#include "emulated_thread.h"
#include "emulator.h"
#include "emulator_atomics.h"
#include "emulator_math.h"
#include "emulator_warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// One instance for each OS thread, which runs one block at a time: the block's.
#define __shared__ static thread_local

#define threadIdx (::heddle::emulator::current_thread->index)
#define blockIdx (::heddle::emulator::current_thread->grid->block_index)
#define blockDim (::heddle::emulator::current_thread->grid->block_dim)
#define gridDim (::heddle::emulator::current_thread->grid->grid_dim)
constexpr int warpSize = 32;

// The typed forms that nvcc's header adds.
template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaHostAlloc(T** pointer, size_t bytes, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(pointer), bytes, flags);
}
template <class T>
cudaError_t cudaMallocAsync(T** pointer, size_t bytes, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(pointer), bytes, stream);
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(P...)) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(P...), int block_size, size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel), block_size, shared_bytes);
}
