// Experts for groups whose results do not depend on their size. The sum over experts and inner elements is cut into pieces, of the inner
// width or of the experts; within a piece experts are added in ascending order, pieces as a tree. Any types, any alignment: what a sum is
// follows from the rows, dtypes and the piece alone (see chunks.h).
#include "cuda/chunk_dot.cuh"
#include "cuda/chunk_tile.cuh"
#include "cuda/experts.cuh"
#include "cuda/sum_tree.cuh"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 8;

// One piece: experts and inner elements, each from `begin` to `end`.
struct Piece {
  int expert_begin, expert_end;
  int inner_begin, inner_end;
};
__device__ __forceinline__ Piece piece_of(const ExpertsWork& work, int i) {
  if (work.splits_experts) return {work.chunks.begin(i), work.chunks.end[i], 0, work.inner};
  return {0, work.experts, work.chunks.begin(i), work.chunks.end[i]};
}

// ---- few rows: a warp for each weight row of an expert and row of x ----

// blockIdx: inner rows, place of the expert, row of x.
template <class W, class T>
__global__ void up_kernel(const __grid_constant__ ExpertsWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.z), wanted = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (i >= work.inner) return;
  const int expert = expert_at(work, row, wanted);
  if (expert < 0) return;
  const T* const x[1] = {static_cast<const T*>(work.x) + int64_t{row} * work.width};
  const W* gate = static_cast<const W*>(work.gate_up) + (int64_t{expert} * 2 * work.inner + i) * work.width;
  const W* const weights[2] = {gate, gate + int64_t{work.inner} * work.width};
  float sums[2];
  dot_piece<1, 2>(x, weights, 0, work.width, sums);
  T* target = static_cast<T*>(work.inner_values) + (int64_t{row} * work.per_token + wanted) * work.inner + i;
  if (threadIdx.x % 32 == 0) from_float(activate(work.kind, sums[0]) * sums[1], *target);
}

// blockIdx: columns of y, row.
template <class W, class T, class Y>
__global__ void down_kernel(const __grid_constant__ ExpertsWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (column >= work.width) return;
  float sums[1];
  SumTree<1, kChunkLevels> tree;
  for (int i = 0; i < work.chunks.count; ++i) {
    const Piece piece = piece_of(work, i);
    float sum = 0;
    for_experts(work, row, [&](int place, int expert, float weight) {
      if (expert < piece.expert_begin || expert >= piece.expert_end) return;
      const T* const inner[1] = {static_cast<const T*>(work.inner_values) + (int64_t{row} * work.per_token + place) * work.inner};
      const W* const down[1] = {static_cast<const W*>(work.down) + (int64_t{expert} * work.width + column) * work.inner};
      float term[1];
      dot_piece<1, 1>(inner, down, piece.inner_begin, piece.inner_end, term);
      sum = __fadd_rn(sum, __fmul_rn(weight, term[0]));
    });
    sums[0] = sum;
    tree.add(sums, i, work.chunks.count);
  }
  if (threadIdx.x % 32 == 0) from_float(sums[0], static_cast<Y*>(work.y)[int64_t{row} * work.width + column]);
}

// ---- many rows: tiles of the pairs of an expert ----

// What a block multiplies: `count` pairs from `pairs` on, and weight rows from `column` on, over one piece of the inner width.
struct Tile {
  const int32_t* pairs;
  int count;
  int expert;
  int column;
};

__device__ __forceinline__ bool tile_of_block(const ExpertsWork& work, int expert, Tile& tile) {
  tile.expert = expert;
  tile.column = static_cast<int>(blockIdx.x) * kTile;
  const int first = static_cast<int>(blockIdx.y) * kTile;
  tile.count = min(work.counts[expert] - first, kTile);
  tile.pairs = work.pairs + int64_t{expert} * work.rows + first;
  return tile.count > 0;
}

// blockIdx: inner rows, pairs, expert.
template <class W, class T>
__global__ void __launch_bounds__((TileFor<W, T, 2>::kThreads)) up_tile_kernel(const __grid_constant__ ExpertsWork work) {
  using Product = TileFor<W, T, 2>;
  __shared__ typename Product::Shared shared;
  ptx::dependency_wait();
  ptx::dependency_launch();
  Tile tile;
  if (!tile_of_block(work, static_cast<int>(blockIdx.z), tile)) return;
  const T* x = static_cast<const T*>(work.x);
  const W* weights = static_cast<const W*>(work.gate_up) + int64_t{tile.expert} * 2 * work.inner * work.width;
  Product product;
  product.multiply(
      shared, [&](int i) { return i < tile.count ? x + int64_t{tile.pairs[i] / work.per_token} * work.width : nullptr; },
      [&](int g, int i) { return tile.column + i < work.inner ? weights + (int64_t{g} * work.inner + tile.column + i) * work.width : nullptr; }, 0,
      work.width);
  product.visit([&](int i, int column, float sum, float up) {
    if (i >= tile.count || tile.column + column >= work.inner) return;
    from_float(activate(work.kind, sum) * up, static_cast<T*>(work.inner_values)[int64_t{tile.pairs[i]} * work.inner + tile.column + column]);
  });
}

// blockIdx: columns of y, pairs, expert and piece of the inner width.
template <class W, class T>
__global__ void __launch_bounds__((TileFor<W, T, 1>::kThreads)) down_tile_kernel(const __grid_constant__ ExpertsWork work) {
  using Product = TileFor<W, T, 1>;
  __shared__ typename Product::Shared shared;
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int index = static_cast<int>(blockIdx.z) / work.experts;
  Tile tile;
  if (!tile_of_block(work, static_cast<int>(blockIdx.z) % work.experts, tile)) return;
  const Piece piece = piece_of(work, index);
  const T* inner = static_cast<const T*>(work.inner_values);
  const W* weights = static_cast<const W*>(work.down) + int64_t{tile.expert} * work.width * work.inner;
  Product product;
  product.multiply(
      shared, [&](int i) { return i < tile.count ? inner + int64_t{tile.pairs[i]} * work.inner : nullptr; },
      [&](int, int i) { return tile.column + i < work.width ? weights + int64_t{tile.column + i} * work.inner : nullptr; }, piece.inner_begin,
      piece.inner_end);
  float* parts = work.parts + int64_t{index} * work.rows * work.per_token * work.width;
  product.visit([&](int i, int column, float sum, float) {
    if (i >= tile.count || tile.column + column >= work.width) return;
    const int pair = tile.pairs[i];
    const float weight = work.routing[int64_t{pair / work.per_token} * work.routing_width + tile.expert];
    parts[int64_t{pair} * work.width + tile.column + column] = __fmul_rn(weight, sum);
  });
}

// A block for each row. The warps find its experts alike.
template <class Y>
__global__ void sum_kernel(const __grid_constant__ ExpertsWork work) {
  __shared__ int first_place[kMostChunks + 1];        // of each piece among the row's experts, where pieces are of experts
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.x), count = work.chunks.count;
  if (threadIdx.x < 32) {
    int places = 0, before[kMostChunks] = {};
    for_experts(work, row, [&](int place, int expert, float) {
      places = place + 1;
#pragma unroll
      for (int i = 0; i < kMostChunks; ++i) before[i] += work.splits_experts && i < count && expert < work.chunks.end[i];
    });
    if (threadIdx.x == 0) {
      first_place[0] = 0;
#pragma unroll
      for (int i = 0; i < kMostChunks; ++i) first_place[i + 1] = work.splits_experts ? before[i] : places;
    }
  }
  __syncthreads();
  for (int column = static_cast<int>(threadIdx.x); column < work.width; column += static_cast<int>(blockDim.x)) {
    float sums[1];
    SumTree<1, kChunkLevels> tree;
    for (int i = 0; i < count; ++i) {
      const int64_t set = work.splits_experts ? 0 : i;
      const float* parts = work.parts + (set * work.rows + row) * work.per_token * work.width + column;
      sums[0] = 0;
      for (int place = work.splits_experts ? first_place[i] : 0; place < first_place[i + 1]; ++place) {
        sums[0] = __fadd_rn(sums[0], parts[int64_t{place} * work.width]);
      }
      tree.add(sums, i, count);
    }
    from_float(sums[0], static_cast<Y*>(work.y)[int64_t{row} * work.width + column]);
  }
}

// ---- on the host ----

Launch spec(const Device& device, dim3 grid, int threads) {
  return {.grid = grid, .block = dim3(static_cast<unsigned>(threads)), .stream = device.stream(), .dependent = device.dependent_launch()};
}
unsigned blocks(int count, int share) { return static_cast<unsigned>((count + share - 1) / share); }

void few(const Device& device, const ExpertsWork& work, const ExpertsTypes& types) {
  const auto rows = static_cast<unsigned>(work.rows), places = static_cast<unsigned>(work.per_token);
  with_product_types(types.gate_up, types.single, [&](auto w, auto t) {
    launch("experts", spec(device, dim3(blocks(work.inner, kWarps), places, rows), 32 * kWarps), up_kernel<decltype(w), decltype(t)>, work);
  });
  with_product_types(types.down, types.single, [&](auto w, auto t) {
    with_type(work.y_dtype, [&](auto y) {
      launch("experts", spec(device, dim3(blocks(work.width, kWarps), rows), 32 * kWarps), down_kernel<decltype(w), decltype(t), decltype(y)>, work);
    });
  });
}

void grouped(const Device& device, const ExpertsWork& work, const ExpertsTypes& types) {
  const auto experts = static_cast<unsigned>(work.experts);
  const unsigned pieces = work.splits_experts ? 1 : static_cast<unsigned>(work.chunks.count);
  list_pairs(device, work);
  with_product_types(types.gate_up, types.single, [&](auto w, auto t) {
    using W = decltype(w);
    using T = decltype(t);
    const dim3 grid(blocks(work.inner, kTile), blocks(work.rows, kTile), experts);
    launch("experts", spec(device, grid, TileFor<W, T, 2>::kThreads), up_tile_kernel<W, T>, work);
  });
  with_product_types(types.down, types.single, [&](auto w, auto t) {
    using W = decltype(w);
    using T = decltype(t);
    const dim3 grid(blocks(work.width, kTile), blocks(work.rows, kTile), experts * pieces);
    launch("experts", spec(device, grid, TileFor<W, T, 1>::kThreads), down_tile_kernel<W, T>, work);
  });
  with_type(work.y_dtype, [&](auto y) {
    launch("experts", spec(device, dim3(static_cast<unsigned>(work.rows)), kRowThreads), sum_kernel<decltype(y)>, work);
  });
}

}  // namespace

void experts_chunks(const Device& device, const ExpertsWork& work, const ExpertsTypes& types) {
  work.rows > kFewExpertRows ? grouped(device, work, types) : few(device, work, types);
}

}  // namespace heddle::cuda
