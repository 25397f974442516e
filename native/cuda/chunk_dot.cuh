// Products of one piece of rows by one warp, in an order that its length alone decides (see chunks.h).
#pragma once
#include "cuda/chunks.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

// Elements `from` … `from` + 7 of a row, zeros from `end` on. How they are read depends on alignment, what they are does not.
template <class T>
__device__ __forceinline__ void load_eight(const T* row, int from, int end, float (&values)[kVector]) {
  const T* source = row + from;
  if (from + kVector <= end && reinterpret_cast<uintptr_t>(source) % 16 == 0) return load(source, values);
#pragma unroll
  for (int i = 0; i < kVector; ++i) values[i] = from + i < end ? to_float(source[i]) : 0.0f;
}

// sums[m * G + g] = sum of x[m][k] * weights[g][k] for k from `begin` to `end`, on all lanes. Lanes take eight elements in turn.
template <int M, int G, class W, class T>
__device__ __forceinline__ void dot_piece(const T* const (&x)[M], const W* const (&weights)[G], int begin, int end, float (&sums)[M * G]) {
#pragma unroll
  for (int i = 0; i < M * G; ++i) sums[i] = 0;
#pragma unroll 2
  for (int k = begin + static_cast<int>(threadIdx.x % 32) * kVector; k < end; k += 32 * kVector) {
    float w[G][kVector];
#pragma unroll
    for (int g = 0; g < G; ++g) load_eight(weights[g], k, end, w[g]);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float values[kVector];
      load_eight(x[m], k, end, values);
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) sums[m * G + g] = fmaf(values[i], w[g][i], sums[m * G + g]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < M * G; ++i) sums[i] = warp_sum(sums[i]);
}

}  // namespace heddle::cuda
