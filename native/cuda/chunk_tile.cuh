// Products of one piece of rows by a block: kTile rows of x with kTile weight rows, in an order that its length alone decides (see
// chunks.h). MmaTile is for 16 bits, PlainTile for all types; both have the same members:
//   kThreads, kRuns (of four sums, for each of G weight tiles), Shared, sums[G][kRuns][4]
//   multiply(shared, x_row, weight_row, begin, end)   sums = products of elements `begin` to `end`; x_row(i) and weight_row(g, i) give the
//                                                     start of a row, null where there is none
//   visit(body)                                       body(row, column, g = 0 sum, g = G - 1 sum) for what this thread has
#pragma once
#include "cuda/mma_step.cuh"
#include "cuda/plain_tile.cuh"

namespace heddle::cuda {

using plain::kTile;

template <class W, class T, int G>
class PlainTile {
 public:
  static constexpr int kThreads = plain::kThreads;
  static constexpr int kRuns = plain::kShare;

  struct alignas(16) Shared {
    plain::Staged x;
    plain::Staged weights[G];
  };

  float sums[G][kRuns][4];

  template <class XRow, class WeightRow>
  __device__ __forceinline__ void multiply(Shared& shared, const XRow& x_row, const WeightRow& weight_row, int begin, int end) {
    clear();
    for (int k = begin; k < end; k += plain::kDepth) {
      for (int i = static_cast<int>(threadIdx.x); i < kTile * plain::kDepth; i += kThreads) {
        const int row = i / plain::kDepth, d = i % plain::kDepth;
        shared.x[d][row] = element(static_cast<const T*>(x_row(row)), k + d, end);
#pragma unroll
        for (int g = 0; g < G; ++g) shared.weights[g][d][row] = element(static_cast<const W*>(weight_row(g, row)), k + d, end);
      }
      __syncthreads();
      plain::multiply<G>(shared.x, shared.weights, sums);
      __syncthreads();
    }
  }

  template <class Body>
  __device__ __forceinline__ void visit(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) body(plain::x_share() + i, plain::column_share() + j, sums[0][i][j], sums[G - 1][i][j]);
    }
  }

 private:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < G * kRuns * 4; ++i) sums[i / (kRuns * 4)][i / 4 % kRuns][i % 4] = 0;
  }
  template <class E>
  static __device__ __forceinline__ float element(const E* row, int k, int end) {
    return row && k < end ? to_float(row[k]) : 0.0f;
  }
};

template <class T, int G>
class MmaTile {
 public:
  static constexpr int kThreads = 128;                // a warp for each 16 rows of x
  static constexpr int kRuns = kTile / 8;
  static constexpr int kStep = 32;                    // elements of k at a time
  static constexpr int kStride = kStep + 8;           // of a staged row: fragments of 8 rows lie in different banks

  struct alignas(16) Shared {
    T staged[2][1 + G][kTile][kStride];               // the next step is on its way while one is multiplied
  };

  float sums[G][kRuns][4];

  template <class XRow, class WeightRow>
  __device__ __forceinline__ void multiply(Shared& shared, const XRow& x_row, const WeightRow& weight_row, int begin, int end) {
    clear();
    const bool busy = x_row(first_row()) != nullptr;
    stage(shared, 0, x_row, weight_row, begin, end);
    for (int k = begin, buffer = 0; k < end; k += kStep, buffer ^= 1) {
      stage(shared, buffer ^ 1, x_row, weight_row, k + kStep, end);
      ptx::copy_async_wait<1>();
      __syncthreads();
      if (busy) multiply_staged(shared.staged[buffer]);
      __syncthreads();
    }
    ptx::copy_async_wait<0>();
    __syncthreads();
  }

  template <class Body>
  __device__ __forceinline__ void visit(const Body& body) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int n = 0; n < kRuns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) body(first_row() + lane / 4 + i / 2 * 8, n * 8 + lane % 4 * 2 + i % 2, sums[0][n][i], sums[G - 1][n][i]);
    }
  }

 private:
  static __device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.x / 32) * 16; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < G * kRuns * 4; ++i) sums[i / (kRuns * 4)][i / 4 % kRuns][i % 4] = 0;
  }

  template <class XRow, class WeightRow>
  static __device__ __forceinline__ void stage(Shared& shared, int buffer, const XRow& x_row, const WeightRow& weight_row, int k, int end) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kStep / 8; i += kThreads) {
      const int row = i / (kStep / 8), d = i % (kStep / 8) * 8;
      copy_eight(&shared.staged[buffer][0][row][d], x_row(row), k + d, end);
#pragma unroll
      for (int g = 0; g < G; ++g) copy_eight(&shared.staged[buffer][1 + g][row][d], weight_row(g, row), k + d, end);
    }
    ptx::copy_async_commit();
  }

  // Zeros where there is no row and from `end` on. The bits do not depend on how the row is aligned.
  static __device__ __forceinline__ void copy_eight(T* target, const T* row, int from, int end) {
    const T* source = row + from;
    if (row && from + 8 <= end && reinterpret_cast<uintptr_t>(source) % 16 == 0) return ptx::copy_async_16(target, source);
#pragma unroll
    for (int i = 0; i < 8; ++i) target[i] = row && from + i < end ? source[i] : T{0};
  }

  __device__ __forceinline__ void multiply_staged(const T (&staged)[1 + G][kTile][kStride]) {
    const int lane = static_cast<int>(threadIdx.x % 32), group = lane / 4, offset = lane % 4 * 8;
    const uint4 low = *reinterpret_cast<const uint4*>(&staged[0][first_row() + group][offset]);
    const uint4 high = *reinterpret_cast<const uint4*>(&staged[0][first_row() + group + 8][offset]);
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int n = 0; n < kRuns; ++n)
        multiply_step<T>(sums[g][n], low, high, *reinterpret_cast<const uint4*>(&staged[1 + g][n * 8 + group][offset]));
    }
  }
};

// W: of weights, T: of the values they are multiplied with.
template <class W, class T, int G>
using TileFor = std::conditional_t<std::is_same_v<W, T> && sizeof(T) == 2, MmaTile<T, G>, PlainTile<W, T, G>>;

}  // namespace heddle::cuda
