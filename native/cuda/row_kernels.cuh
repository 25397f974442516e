// What the kernels of row and element operations share: vectors of elements, shares of a row, sums over a block.
// Rule: which thread adds what depends on width and alignment, never on the number of rows: a row gives the same bits in every batch.
#pragma once
#include <algorithm>
#include <type_traits>

#include "core/tensor.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

constexpr int kVector = 8;                            // elements that a thread takes at once
constexpr int kRowThreads = 256;

template <int N>
using Count = std::integral_constant<int, N>;

template <class T, int N>
__device__ __forceinline__ void load(const T* source, float (&values)[N]) {
  if constexpr (N == 1) {
    values[0] = to_float(*source);
  } else {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(source);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_float(pack.elements[i]);
  }
}

template <class T, int N>
__device__ __forceinline__ void store(T* target, const float (&values)[N]) {
  if constexpr (N == 1) {
    from_float(values[0], *target);
  } else {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) from_float(values[i], pack.elements[i]);
    *reinterpret_cast<Pack<T, N>*>(target) = pack;
  }
}

// Calls body(Count<N>, i) for what is worker `first`'s of `count` elements dealt to `stride` workers: whole vectors where memory is
// `aligned`, then single elements.
template <class Body>
__device__ __forceinline__ void for_share(int64_t count, bool aligned, int64_t first, int64_t stride, Body&& body) {
  const int64_t vectors = aligned ? count / kVector : 0;
  for (int64_t i = first; i < vectors; i += stride) body(Count<kVector>{}, i * kVector);
  for (int64_t i = vectors * kVector + first; i < count; i += stride) body(Count<1>{}, i);
}

// The share of this thread in a flat list that the whole grid works on.
template <class Body>
__device__ __forceinline__ void for_flat_share(int64_t count, bool aligned, Body&& body) {
  for_share(count, aligned, int64_t{blockIdx.x} * blockDim.x + threadIdx.x, int64_t{gridDim.x} * blockDim.x, body);
}

// The share of this thread in a row that blockIdx.x names and the blocks of its blockIdx.y share.
template <class Body>
__device__ __forceinline__ void for_row_share(int64_t width, bool aligned, Body&& body) {
  for_share(width, aligned, int64_t{blockIdx.y} * blockDim.x + threadIdx.x, int64_t{gridDim.y} * blockDim.x, body);
}

// The share of this thread in a row that the block has to itself.
template <class Body>
__device__ __forceinline__ void for_block_share(int64_t width, bool aligned, Body&& body) {
  for_share(width, aligned, threadIdx.x, blockDim.x, body);
}

// Brings this thread's share of a vector of weights into L2, which needs no wait for earlier kernels.
__device__ __forceinline__ void prefetch_share(const float* weight, int64_t width) {
  for (int64_t i = int64_t{threadIdx.x} * kVector; i < width; i += int64_t{blockDim.x} * kVector) ptx::prefetch_l2(weight + i);
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The sum over the block's threads, on all of them. `partials` is shared memory of 32 floats; blockDim.x is a multiple of 32.
__device__ __forceinline__ float block_sum(float value, float* partials) {
  value = warp_sum(value);
  __syncthreads();                                    // partials of an earlier sum may still be read
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? partials[threadIdx.x % 32] : 0.0f);
}

// ---- on the host ----

// Whether `data` may be accessed 16 bytes at a time in every row of `width` elements.
inline bool is_aligned(const void* data, DType dtype, int64_t width) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && static_cast<size_t>(width) * size_of(dtype) % 16 == 0;
}
inline bool rows_aligned(View x) { return is_aligned(x.data, x.dtype, x.width); }
inline bool start_aligned(View x) { return is_aligned(x.data, x.dtype, kVector); }

inline int64_t blocks_for(int64_t count) {
  constexpr int64_t kShare = int64_t{kVector} * kRowThreads;
  return std::max<int64_t>(1, (count + kShare - 1) / kShare);
}

// A thread for every vector of a flat list, up to some waves of the GPU.
inline Launch over_elements(const Device& device, int64_t count) {
  const int64_t blocks = std::min<int64_t>(blocks_for(count), int64_t{32} * device.sm_count());
  return {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kRowThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()};
}

// A thread for every vector of every row; rows are blockIdx.x.
inline Launch over_rows(const Device& device, int64_t rows, int64_t width) {
  const int64_t blocks = std::min<int64_t>(blocks_for(width), 1024);
  return {.grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(blocks)),
          .block = dim3(kRowThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()};
}

// A block for every row, as many threads as it has vectors.
inline Launch block_per_row(const Device& device, int64_t rows, int64_t width) {
  const auto threads = static_cast<unsigned>(std::clamp<int64_t>((width + kVector - 1) / kVector, 1, 1024) + 31) / 32 * 32;
  return {.grid = dim3(static_cast<unsigned>(rows)),
          .block = dim3(threads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()};
}

// Calls body(X{}, Y{}) with the element types of two matrices.
template <class Body>
void with_types(DType x, DType y, Body&& body) {
  with_type(x, [&](auto x_type) { with_type(y, [&](auto y_type) { body(x_type, y_type); }); });
}

}  // namespace heddle::cuda
