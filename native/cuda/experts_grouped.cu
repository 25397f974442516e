// Many rows: the pairs of each expert are listed, and tiles of 64 of them multiplied by 64 weight rows, on tensor cores where both operands
// are of 16 bits and aligned. Blocks for more pairs than an expert has end at once, so launches need no counts.
// Rule: a pair's terms are summed up alone and a row's in the order of its experts, so a row gives the same bits in every batch.
#include "cuda/experts.cuh"
#include "cuda/mma_step.cuh"
#include "cuda/plain_tile.cuh"

namespace heddle::cuda {

namespace {

constexpr int kListThreads = 256;
using plain::kTile;

// ---- lists ----

// A block for each expert.
__global__ void list_kernel(const ExpertsWork work) {
  __shared__ int hits_of_warp[kListThreads / 32];
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int expert = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  int total = 0;
  for (int first = 0; first < work.rows; first += kListThreads) {
    const int row = first + static_cast<int>(threadIdx.x);
    const float* routing = work.routing + int64_t{row} * work.routing_width;
    int place = 0;
    bool hit = row < work.rows && routing[expert] != 0.0f;
    for (int i = 0; hit && i < expert; ++i) place += routing[i] != 0.0f;
    hit = hit && place < work.per_token;
    const unsigned hits = __ballot_sync(kWholeWarp, hit);
    if (lane == 0) hits_of_warp[warp] = __popc(hits);
    __syncthreads();
    int before = total;
    for (int w = 0; w < kListThreads / 32; ++w) {
      before += w < warp ? hits_of_warp[w] : 0;
      total += hits_of_warp[w];
    }
    if (hit) work.pairs[int64_t{expert} * work.rows + before + __popc(hits & ((1u << lane) - 1))] = row * work.per_token + place;
    __syncthreads();
  }
  if (threadIdx.x == 0) work.counts[expert] = total;
}

// ---- tiles ----

// What a block multiplies: `count` pairs from `pairs` on, and weight rows from `column` on.
struct Tile {
  const int32_t* pairs;
  int count;
  int expert;
  int column;
};

__device__ __forceinline__ bool tile_of_block(const ExpertsWork& work, Tile& tile) {
  tile.expert = static_cast<int>(blockIdx.z);
  tile.column = static_cast<int>(blockIdx.x) * kTile;
  const int first = static_cast<int>(blockIdx.y) * kTile;
  tile.count = min(work.counts[tile.expert] - first, kTile);
  tile.pairs = work.pairs + int64_t{tile.expert} * work.rows + first;
  return tile.count > 0;
}

// One of the two products: x with gates and ups (G 2), inner values with down (G 1).
template <class W, class T, int G>
struct Operands {
  const T* x;
  const W* weights;                                   // of the expert
  int depth;
  int columns;                                        // weight rows; those of ups begin behind them

  __device__ Operands(const ExpertsWork& work, int expert)
      : x(static_cast<const T*>(G == 2 ? work.x : work.inner_values)),
        weights(static_cast<const W*>(G == 2 ? work.gate_up : work.down) + int64_t{expert} * G * work.inner * work.width),
        depth(G == 2 ? work.width : work.inner), columns(G == 2 ? work.inner : work.width) {}

  __device__ __forceinline__ const T* x_row(const ExpertsWork& work, int pair) const {
    return x + int64_t{G == 2 ? pair / work.per_token : pair} * depth;
  }
  __device__ __forceinline__ const W* weight_row(int g, int column) const { return weights + (int64_t{g} * columns + column) * depth; }
};

// The element of pair and column that comes of the sums.
template <class T, int G>
__device__ __forceinline__ void store_sum(const ExpertsWork& work, const Tile& tile, int index, int column, float sum, float up) {
  if (index >= tile.count || column >= (G == 2 ? work.inner : work.width)) return;
  const int pair = tile.pairs[index];
  if constexpr (G == 2) {
    from_float(activate(work.kind, sum) * up, static_cast<T*>(work.inner_values)[int64_t{pair} * work.inner + column]);
  } else {
    const float weight = work.routing[int64_t{pair / work.per_token} * work.routing_width + tile.expert];
    work.parts[int64_t{pair} * work.width + column] = weight * sum;
  }
}

// Any types, any alignment.
template <class W, class T, int G>
__global__ void __launch_bounds__(plain::kThreads) plain_tile_kernel(const ExpertsWork work) {
  __shared__ __align__(16) plain::Staged x_tile;
  __shared__ __align__(16) plain::Staged weight_tiles[G];
  ptx::dependency_wait();
  ptx::dependency_launch();
  Tile tile;
  if (!tile_of_block(work, tile)) return;
  const Operands<W, T, G> operands(work, tile.expert);
  float sums[G][plain::kShare][plain::kShare] = {};
  for (int k = 0; k < operands.depth; k += plain::kDepth) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * plain::kDepth; i += plain::kThreads) {
      const int r = i / plain::kDepth, d = i % plain::kDepth;
      const bool inside = k + d < operands.depth;
      x_tile[d][r] = inside && r < tile.count ? to_float(operands.x_row(work, tile.pairs[r])[k + d]) : 0.0f;
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const bool valid = inside && tile.column + r < operands.columns;
        weight_tiles[g][d][r] = valid ? to_float(operands.weight_row(g, tile.column + r)[k + d]) : 0.0f;
      }
    }
    __syncthreads();
    plain::multiply<G>(x_tile, weight_tiles, sums);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < plain::kShare; ++i) {
#pragma unroll
    for (int j = 0; j < plain::kShare; ++j)
      store_sum<T, G>(work, tile, plain::x_share() + i, tile.column + plain::column_share() + j, sums[0][i][j], sums[G - 1][i][j]);
  }
}

constexpr int kMmaThreads = 128;                      // a warp for each 16 pairs
constexpr int kStep = 32;                             // elements of k at a time
constexpr int kMmaStride = kStep + 8;                 // of a staged row: fragments of 8 rows lie in different banks

// 16 bits, aligned. Tiles of the next step are on their way while one is multiplied.
template <class T, int G>
__global__ void __launch_bounds__(kMmaThreads) mma_tile_kernel(const ExpertsWork work) {
  __shared__ __align__(16) T staged[2][1 + G][kTile][kMmaStride];
  ptx::dependency_wait();
  ptx::dependency_launch();
  Tile tile;
  if (!tile_of_block(work, tile)) return;
  const Operands<T, T, G> operands(work, tile.expert);
  const auto stage = [&](int k, int buffer) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kStep / 8; i += kMmaThreads) {
      const int r = i / (kStep / 8), d = i % (kStep / 8) * 8;
      const bool inside = k + d < operands.depth, is_pair = inside && r < tile.count;
      ptx::copy_async_16(&staged[buffer][0][r][d], is_pair ? operands.x_row(work, tile.pairs[r]) + k + d : operands.x, is_pair);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const bool valid = inside && tile.column + r < operands.columns;
        ptx::copy_async_16(&staged[buffer][1 + g][r][d], valid ? operands.weight_row(g, tile.column + r) + k + d : operands.weights, valid);
      }
    }
    ptx::copy_async_commit();
  };

  const int lane = static_cast<int>(threadIdx.x % 32), first_pair = static_cast<int>(threadIdx.x / 32) * 16;
  const int group = lane / 4, offset = lane % 4 * 8;
  float sums[G][kTile / 8][4] = {};
  stage(0, 0);
  for (int k = 0, buffer = 0; k < operands.depth; k += kStep, buffer ^= 1) {
    stage(k + kStep, buffer ^ 1);                     // nothing but zeros behind the end
    ptx::copy_async_wait<1>();
    __syncthreads();
    const uint4 low = *reinterpret_cast<const uint4*>(&staged[buffer][0][first_pair + group][offset]);
    const uint4 high = *reinterpret_cast<const uint4*>(&staged[buffer][0][first_pair + group + 8][offset]);
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
        multiply_step<T>(sums[g][n], low, high, *reinterpret_cast<const uint4*>(&staged[buffer][1 + g][n * 8 + group][offset]));
    }
    __syncthreads();
  }
  ptx::copy_async_wait<0>();
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = tile.column + n * 8 + lane % 4 * 2 + i % 2;
      store_sum<T, G>(work, tile, first_pair + group + i / 2 * 8, column, sums[0][n][i], sums[G - 1][n][i]);
    }
  }
}

// ---- sums ----

// A block for each row: its terms in the order of its experts.
template <class Y>
__global__ void sum_kernel(const ExpertsWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.x);
  int count = 0;
  for_experts(work, row, [&](int place, int, float) { count = place + 1; });
  const float* parts = work.parts + int64_t{row} * work.per_token * work.width;
  for (int i = static_cast<int>(threadIdx.x); i < work.width; i += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int place = 0; place < count; ++place) sum += parts[int64_t{place} * work.width + i];
    from_float(sum, static_cast<Y*>(work.y)[int64_t{row} * work.width + i]);
  }
}

// ---- on the host ----

Launch spec(const Device& device, dim3 grid, int threads) {
  return {.grid = grid, .block = dim3(static_cast<unsigned>(threads)), .stream = device.stream(), .dependent = device.dependent_launch()};
}

template <int G>
void multiply_tiles(const Device& device, const ExpertsWork& work, DType weight, bool single) {
  const auto tiles = [](int count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
  const dim3 grid(tiles(G == 2 ? work.inner : work.width), tiles(work.rows), static_cast<unsigned>(work.experts));
  with_product_types(weight, single, [&](auto w, auto t) {
    using W = decltype(w);
    using T = decltype(t);
    if constexpr (std::is_same_v<W, T> && sizeof(T) == 2) {
      if (work.aligned) return launch("experts", spec(device, grid, kMmaThreads), mma_tile_kernel<T, G>, work);
    }
    launch("experts", spec(device, grid, plain::kThreads), plain_tile_kernel<W, T, G>, work);
  });
}

}  // namespace

void list_pairs(const Device& device, const ExpertsWork& work) {
  launch("experts", spec(device, dim3(static_cast<unsigned>(work.experts)), kListThreads), list_kernel, work);
}

void experts_grouped(const Device& device, const ExpertsWork& work, const ExpertsTypes& types) {
  list_pairs(device, work);
  multiply_tiles<2>(device, work, types.gate_up, types.single);
  multiply_tiles<1>(device, work, types.down, types.single);
  with_type(work.y_dtype, [&](auto y) {
    launch("experts", spec(device, dim3(static_cast<unsigned>(work.rows)), kRowThreads), sum_kernel<decltype(y)>, work);
  });
}

}  // namespace heddle::cuda
