// Matrix products for three to sixteen rows of x on tensor cores, weights streamed once: x is the operand of 16 rows, weights that of 8
// columns, so that a warp takes 8 weight rows and small shards still spread over all multiprocessors.
// Rule: fragments come straight from 16-byte pieces of rows. The order in which a sum runs over k is free, so each lane's 8 consecutive
// elements stand for the scattered ones that mma asks for, in both operands alike.
#include "cuda/launch.h"
#include "cuda/linear_epilogue.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/linear_stream.cuh"
#include "cuda/mma_step.cuh"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

constexpr int kStep = 32;                             // elements of a row that four lanes take at once: two mma steps of 16
constexpr int kTileRows = 8;

struct MmaWork {
  WeightMatrix weights;
  const void* x;
  int x_rows;
  int panel;                                          // elements of k that a block takes, and its place in x: blockIdx.y * panel
  int x_stride;                                       // elements of a staged row; 64 bytes beyond whole banks, so reads do not collide
  int splits;                                         // warps that share a tile's k: a power of two
  int split;                                          // elements of each, a multiple of kStep
  int rounds;                                         // of a split
  int tiles;
  float* sums;                                        // null: the block has all of k; else [panels, rows, out] for linear_finish
  Epilogue epilogue;
};

// The block's panel of x into shared memory, with zeros behind it and below.
template <class W, int kXRows>
__device__ __forceinline__ void stage_input(const MmaWork& work, W* x) {
  const int begin = static_cast<int>(blockIdx.y) * work.panel, width = work.splits * work.split;
  const int vectors = width / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kXRows * vectors; i += kStreamThreads) {
    const int m = i / vectors, k = i % vectors * 8;
    const bool valid = m < work.x_rows && k < work.panel && begin + k < work.weights.in;
    const auto* source = static_cast<const W*>(work.x) + (valid ? int64_t{m} * work.weights.in + begin + k : 0);
    ptx::copy_async_16(x + m * work.x_stride + k, source, valid);
  }
  ptx::copy_async_commit();
}

// Sums of one tile over its warps' shares of k; `partials` is [warp, R, kXRows, 8]. One thread for each element of y.
template <int kXRows, int R>
__device__ __forceinline__ void finish_pass(const MmaWork& work, int pass, int end, const float* partials) {
  constexpr int kTile = kXRows * kTileRows;
  const int tiles = kStreamWarps / work.splits;
  for (int i = static_cast<int>(threadIdx.x); i < tiles * kTile; i += kStreamThreads) {
    const int tile = i / kTile, m = i % kTile / kTileRows;
    const int row = (pass + tile) * kTileRows + i % kTileRows;
    if (m >= work.x_rows || pass + tile >= end || row > work.weights.last_row) continue;
    float sums[R] = {};
    for (int s = 0; s < work.splits; ++s) {
#pragma unroll
      for (int r = 0; r < R; ++r) sums[r] += partials[((tile * work.splits + s) * R + r) * kTile + i % kTile];
    }
    if (!work.sums) {
      finish(work.epilogue, m, row, sums[0], sums[R - 1]);
      continue;
    }
    const int out = (work.weights.last_row + 1) * R;
#pragma unroll
    for (int r = 0; r < R; ++r) work.sums[(int64_t{blockIdx.y} * work.x_rows + m) * out + row + r * work.weights.pairs] = sums[r];
  }
}

// W: of both operands. kXRows: 8 or 16. R: 2 with a gate (a tile of gates, one of ups), else 1.
template <class W, int kXRows, int R>
__global__ void __launch_bounds__(kStreamThreads, 2) mma_kernel(const MmaWork work) {
  constexpr int U = kCopiesInFlight / R;
  HEDDLE_DYNAMIC_SHARED(shared);
  float* partials = reinterpret_cast<float*>(shared + kRingBytes);
  W* x = reinterpret_cast<W*>(partials + kStreamWarps * R * kXRows * kTileRows);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int group = lane / 4, offset = lane % 4 * 8;
  const int tiles = kStreamWarps / work.splits, split_begin = warp % work.splits * work.split;
  const int panel_begin = static_cast<int>(blockIdx.y) * work.panel;
  const int first = tiles_before(work.tiles, blockIdx.x, gridDim.x);
  const int end = tiles_before(work.tiles, blockIdx.x + 1, gridDim.x);

  using Stream = WeightStream<W, R, U, kStep>;
  const int limit = min(work.weights.in, panel_begin + min(work.panel, split_begin + work.split));
  Stream stream(work.weights, {first + warp / work.splits, tiles, end, group, panel_begin + split_begin + offset, limit, work.rounds}, shared);
  stream.prefetch(lane % 4 == 0, 2);
  ptx::dependency_launch();
  ptx::dependency_wait();

  stage_input<W, kXRows>(work, x);
  ptx::copy_async_wait<0>();
  __syncthreads();

  const W* staged = x + group * work.x_stride + split_begin + offset;
#pragma unroll 1
  for (int pass = first; pass < end; pass += tiles) {
    float sums[R][4] = {};
#pragma unroll 1
    for (int k = 0; k < work.split; k += Stream::kRound) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        stream.wait();
        if (k + u * kStep < work.split) {
          const uint4 low = *reinterpret_cast<const uint4*>(staged + k + u * kStep);
          const uint4 high = kXRows > 8 ? *reinterpret_cast<const uint4*>(staged + 8 * work.x_stride + k + u * kStep) : make_uint4(0, 0, 0, 0);
#pragma unroll
          for (int r = 0; r < R; ++r) multiply_step<W>(sums[r], low, high, stream.read(r, u));
        }
        stream.copy(u);
      }
      stream.next_round();
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float* tile = partials + (warp * R + r) * kXRows * kTileRows + lane * 2;   // rows group and group + 8 of x, two columns
      *reinterpret_cast<float2*>(tile) = make_float2(sums[r][0], sums[r][1]);
      if (kXRows > 8) *reinterpret_cast<float2*>(tile + 8 * kTileRows) = make_float2(sums[r][2], sums[r][3]);
    }
    __syncthreads();
    finish_pass<kXRows, R>(work, pass, end, partials);
    __syncthreads();
  }
  ptx::copy_async_wait<0>();
}

// ---- on the host ----

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

struct Plan {
  MmaWork work = {};
  int panels = 1;
  int blocks = 1;                                     // of each panel
  int x_rows = 8;                                     // 8 or 16
  size_t shared_bytes = 0;
};

size_t shared_bytes(int x_rows, bool gated, int64_t x_stride) {
  const int64_t partials = int64_t{kStreamWarps} * (gated ? 2 : 1) * x_rows * kTileRows * 4;
  return kRingBytes + static_cast<size_t>(partials + x_rows * x_stride * 2);
}

// 64 bytes beyond a multiple of 128: then the rows of a fragment lie in different banks.
int64_t stride_of(int64_t width) { return round_up(width, 64) + 32; }

// Warps that share a tile: each has at least a round of copies where that is possible, and none is without a tile.
int splits_of(int64_t panel, int tiles_of_block, int round) {
  int splits = 1;
  while (splits < kStreamWarps && (panel > int64_t{splits} * round || tiles_of_block * splits < kStreamWarps)) splits *= 2;
  return splits;
}

// Panels of k as few as possible: they cost a kernel that adds up their sums.
Plan plan_for(const Device& device, const LinearCall& call) {
  Plan plan;
  MmaWork& work = plan.work;
  const bool gated = call.gated.has_value();
  const int64_t in = call.weight->width();
  const int round = kCopiesInFlight / (gated ? 2 : 1) * kStep;
  plan.x_rows = call.x.rows <= 8 ? 8 : 16;
  work.weights = weight_matrix(call, kTileRows);
  work.tiles = tile_count(work.weights);
  for (;; ++plan.panels) {
    const int64_t panel = round_up((in + plan.panels - 1) / plan.panels, kStep);
    plan.blocks = std::min(work.tiles, std::max(1, device.sm_count() / plan.panels));
    work.panel = static_cast<int>(panel);
    work.splits = splits_of(panel, (work.tiles + plan.blocks - 1) / plan.blocks, round);
    work.split = static_cast<int>(round_up((panel + work.splits - 1) / work.splits, kStep));
    work.x_stride = static_cast<int>(stride_of(int64_t{work.splits} * work.split));
    plan.shared_bytes = shared_bytes(plan.x_rows, gated, work.x_stride);
    if (plan.shared_bytes <= device.shared_bytes_per_block() || panel == kStep) break;
  }
  work.rounds = static_cast<int>(round_up(work.split, round) / round);
  work.x = call.x.data;
  work.x_rows = static_cast<int>(call.x.rows);
  work.epilogue = epilogue_of(call);
  return plan;
}

template <class W, int kXRows, int R>
void launch_mma(const Device& device, const Plan& plan) {
  launch("linear",
         {.grid = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.panels)),
          .block = dim3(kStreamThreads),
          .shared_bytes = plan.shared_bytes,
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         mma_kernel<W, kXRows, R>, plan.work);
}

template <class W>
void launch_mma(const Device& device, const Plan& plan) {
  const bool gated = plan.work.epilogue.gated;
  if (plan.x_rows == 8) return gated ? launch_mma<W, 8, 2>(device, plan) : launch_mma<W, 8, 1>(device, plan);
  gated ? launch_mma<W, 16, 2>(device, plan) : launch_mma<W, 16, 1>(device, plan);
}

}  // namespace

bool can_mma(const Device& device, const LinearCall& call) {
  const DType dtype = call.weight->dtype;
  return call.x.rows <= 16 && !multiplies_float32(call) && is_aligned(call.weight->buffer.data(), dtype, call.weight->width()) &&
         plan_for(device, call).shared_bytes <= device.shared_bytes_per_block();
}

void linear_mma(const Device& device, const LinearCall& call) {
  Plan plan = plan_for(device, call);
  if (plan.panels > 1) {
    const int64_t sums = plan.panels * call.x.rows * call.weight->rows();
    plan.work.sums = static_cast<float*>(device.scratch(Scratch::linear_partial, static_cast<size_t>(sums) * sizeof(float)));
  }
  if (call.weight->dtype == DType::bfloat16) {
    launch_mma<bfloat16>(device, plan);
  } else {
    launch_mma<float16>(device, plan);
  }
  if (plan.panels > 1) linear_finish(device, call, plan.work.sums, plan.panels);
}

}  // namespace heddle::cuda
