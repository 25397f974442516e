// Tiles of 16-bit rows in shared memory, and their mma fragments. Rule: eight rows at the same column lie in eight different groups of
// banks, so that ldmatrix and 16-byte copies meet no conflicts.
#pragma once
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

constexpr int kVector = 8;                            // 16-bit elements of 16 bytes

template <class T, int HeadDim>
struct Tile {
  static constexpr bool kSwizzled = HeadDim % 64 == 0;
  static constexpr int kStride = kSwizzled ? HeadDim : HeadDim + kVector;
  static constexpr int kVectors = HeadDim / kVector;  // of a row

  // Of the 16 bytes that begin at column `vector * kVector`.
  static __device__ __forceinline__ int offset(int row, int vector) {
    return row * kStride + (kSwizzled ? vector ^ (row & 7) : vector) * kVector;
  }

  // Fragments of rows [row, row + 16) and columns [column, column + 16).
  // As a of an mma: tile rows are its rows.
  static __device__ __forceinline__ void load_a(uint32_t (&a)[4], const T* tile, int row, int column, int lane) {
    ptx::load_matrix_x4(a, tile + offset(row + lane % 16, column / kVector + lane / 16));
  }
  // As b of two mmas, {b[0], b[1]} and {b[2], b[3]}: tile rows are their columns (keys of a score).
  static __device__ __forceinline__ void load_b(uint32_t (&b)[4], const T* tile, int row, int column, int lane) {
    ptx::load_matrix_x4(b, tile + offset(row + lane / 16 * 8 + lane % 8, column / kVector + lane / 8 % 2));
  }
  // As b of two mmas: tile rows are summed over (keys of a weighted sum of values), tile columns are their columns.
  static __device__ __forceinline__ void load_b_transposed(uint32_t (&b)[4], const T* tile, int row, int column, int lane) {
    ptx::load_matrix_x4_transposed(b, tile + offset(row + lane % 16, column / kVector + lane / 16));
  }
};

__device__ __forceinline__ void multiply_add(bfloat16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx::mma_bfloat16(d, a, b);
}
__device__ __forceinline__ void multiply_add(float16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  ptx::mma_float16(d, a, b);
}

// Over the four lanes that share the rows of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace heddle::cuda
