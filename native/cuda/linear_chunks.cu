// Matrix products for groups whose results do not depend on their size: any number of rows, any types, any alignment, in pieces whose
// sums are added as a tree. Which kernel runs, and in which order it adds, follows from rows and dtypes and the pieces alone, never from
// how many weight rows there are or where one of them lies.
#include "cuda/chunk_dot.cuh"
#include "cuda/chunk_tile.cuh"
#include "cuda/launch.h"
#include "cuda/linear_epilogue.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/sum_tree.cuh"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int64_t kWarpRows = 4;                      // of x, that a warp multiplies with a weight row; beyond, tiles

struct ChunkWork {
  const void* x;                                      // [rows, in], in the dtype of the product
  const void* weights;                                // [out, in]
  int64_t in;
  int rows;
  ChunkTable chunks;
  Epilogue epilogue;
};

// A gated product has one piece: rows of gates and of ups are added to nothing.
template <int G>
constexpr int kLevels = G == 1 ? kChunkLevels : 0;

// A warp for each column of y.
template <class W, class T, int M, int G>
__global__ void __launch_bounds__(32 * kWarps) chunk_dot_kernel(const __grid_constant__ ChunkWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int column = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (column >= work.epilogue.width) return;
  const T* x[M];
#pragma unroll
  for (int m = 0; m < M; ++m) x[m] = static_cast<const T*>(work.x) + min(m, work.rows - 1) * work.in;
  const W* weights[G];
#pragma unroll
  for (int g = 0; g < G; ++g) weights[g] = static_cast<const W*>(work.weights) + (column + int64_t{g} * work.epilogue.width) * work.in;
  float sums[M * G];
  SumTree<M * G, kLevels<G>> tree;
  for (int i = 0; i < work.chunks.count; ++i) {
    dot_piece<M, G>(x, weights, work.chunks.begin(i), work.chunks.end[i], sums);
    tree.add(sums, i, work.chunks.count);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (lane == m && m < work.rows) finish(work.epilogue, m, column, sums[m * G], sums[m * G + G - 1]);
  }
}

// A block for each tile of rows and columns of y.
template <class W, class T, int G>
__global__ void __launch_bounds__((TileFor<W, T, G>::kThreads)) chunk_tile_kernel(const __grid_constant__ ChunkWork work) {
  using Tile = TileFor<W, T, G>;
  __shared__ typename Tile::Shared shared;
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int first_row = static_cast<int>(blockIdx.y) * kTile, first_column = static_cast<int>(blockIdx.x) * kTile;
  const auto x_row = [&](int i) { return first_row + i < work.rows ? static_cast<const T*>(work.x) + (first_row + i) * work.in : nullptr; };
  const auto weight_row = [&](int g, int i) {
    const int column = first_column + i;
    const W* weights = static_cast<const W*>(work.weights);
    return column < work.epilogue.width ? weights + (column + int64_t{g} * work.epilogue.width) * work.in : nullptr;
  };
  Tile tile;
  SumTree<4, kLevels<G>> trees[G][Tile::kRuns];
  for (int i = 0; i < work.chunks.count; ++i) {
    tile.multiply(shared, x_row, weight_row, work.chunks.begin(i), work.chunks.end[i]);
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int run = 0; run < Tile::kRuns; ++run) trees[g][run].add(tile.sums[g][run], i, work.chunks.count);
    }
  }
  tile.visit([&](int row, int column, float sum, float up) {
    if (first_row + row < work.rows && first_column + column < work.epilogue.width) {
      finish(work.epilogue, first_row + row, first_column + column, sum, up);
    }
  });
}

template <class W, class T, int G>
void run(const Device& device, const ChunkWork& work) {
  const auto blocks = [](int count, int share) { return static_cast<unsigned>((count + share - 1) / share); };
  Launch spec = {.stream = device.stream(), .dependent = device.dependent_launch()};
  if (work.rows > kWarpRows) {
    spec.grid = dim3(blocks(work.epilogue.width, kTile), blocks(work.rows, kTile));
    spec.block = dim3(TileFor<W, T, G>::kThreads);
    return launch("linear", spec, chunk_tile_kernel<W, T, G>, work);
  }
  spec.grid = dim3(blocks(work.epilogue.width, kWarps));
  spec.block = dim3(32 * kWarps);
  work.rows == 1 ? launch("linear", spec, chunk_dot_kernel<W, T, 1, G>, work)
                 : launch("linear", spec, chunk_dot_kernel<W, T, static_cast<int>(kWarpRows), G>, work);
}

template <class W, class T>
void run(const Device& device, const ChunkWork& work) {
  work.epilogue.gated ? run<W, T, 2>(device, work) : run<W, T, 1>(device, work);
}

}  // namespace

void linear_chunks(const Device& device, const LinearCall& call) {
  constexpr int64_t kMaxRows = int64_t{65535} * kTile;
  if (call.x.rows > kMaxRows) {
    throw Error(ErrorCode::invalid_argument, "linear: expected at most " + std::to_string(kMaxRows) + " rows, got " + std::to_string(call.x.rows));
  }
  ChunkWork work = {};
  work.x = call.x.data;
  work.weights = call.weight->buffer.data();
  work.in = call.weight->width();
  work.rows = static_cast<int>(call.x.rows);
  work.chunks = chunk_table(chunks_of(call), work.in, "linear");
  work.epilogue = epilogue_of(call);
  with_type(call.weight->dtype, [&](auto type) {
    using W = decltype(type);
    multiplies_float32(call) ? run<W, float>(device, work) : run<W, W>(device, work);
  });
}

}  // namespace heddle::cuda
