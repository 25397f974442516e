// Products by tiles of float32 arithmetic, for any types and alignments. A block stages kTile rows of both operands, kDepth elements at a
// time, as lines of k; each of its threads multiplies kShare rows of one with kShare rows of the other.
#pragma once
#include "cuda/row_kernels.cuh"

namespace heddle::cuda::plain {

constexpr int kTile = 64;                             // rows of x, and rows of weights, of a block
constexpr int kDepth = 16;                            // elements of k at a time
constexpr int kShare = 4;                             // rows of each that a thread multiplies
constexpr int kThreads = (kTile / kShare) * (kTile / kShare);
constexpr int kStride = kTile + 4;                    // of a staged line of k: keeps float4 aligned, spreads stores over banks

using Staged = float[kDepth][kStride];                // in shared memory, aligned to 16 bytes

// First of this thread's rows in the tile of x, and of its rows in a tile of weights.
__device__ __forceinline__ int x_share() { return static_cast<int>(threadIdx.x) / (kTile / kShare) * kShare; }
__device__ __forceinline__ int column_share() { return static_cast<int>(threadIdx.x) % (kTile / kShare) * kShare; }

// sums[g][i][j] += products of row x_share() + i with row column_share() + j of tile g, over the staged elements.
template <int G>
__device__ __forceinline__ void multiply(const Staged& x, const Staged (&weights)[G], float (&sums)[G][kShare][kShare]) {
  const int x_row = x_share(), column = column_share();
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    const auto a = *reinterpret_cast<const Pack<float, kShare>*>(&x[d][x_row]);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const auto b = *reinterpret_cast<const Pack<float, kShare>*>(&weights[g][d][column]);
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) sums[g][i][j] += a.elements[i] * b.elements[j];
      }
    }
  }
}

}  // namespace heddle::cuda::plain
