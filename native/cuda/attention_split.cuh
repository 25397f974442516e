// The device side of split decode: which part of which sequence a block has, the new key and value, and the way from the results of
// warps to those of blocks to the output. What attends in between is the business of each kernel.
#pragma once
#include "cuda/attention_head.cuh"
#include "cuda/attention_split.h"

namespace heddle::cuda {

struct SplitPart {
  int sequence;
  int token;
  int position;                                       // of the token: the newest key
  int kv_head;
  int first_row;                                      // first of the block's query heads in the HeadTable
  int rows;                                           // how many; 0 for a KV head that nobody reads
  int begin;                                          // keys of this part
  int end;
  int split;
  int active;                                         // parts that hold keys
  bool newest;                                        // this part holds the newest key
  bool appends;                                       // and this block writes it to the cache
};

// False where the block has nothing to do: padding, a sequence of several tokens, a part beyond the context.
__device__ __forceinline__ bool find_part(const AttentionParameters& p, const SplitPlan& plan, SplitPart& part) {
  part.sequence = static_cast<int>(blockIdx.z);
  const int sequences = p.step.counts->sequences;     // three loads at once: each costs the latency of the L2 cache
  part.token = p.step.sequence_starts[part.sequence];
  const int next = p.step.sequence_starts[part.sequence + 1];
  if (part.sequence >= sequences || next - part.token != 1) return false;
  part.position = p.step.positions[part.token];
  const KeyRange keys = visible_keys(p, part.position, part.position + 1);
  const int count = keys.end - keys.begin;
  const int share = (count + plan.splits - 1) / plan.splits;
  const int length = (share + kSplitKeys - 1) / kSplitKeys * kSplitKeys;
  part.split = static_cast<int>(blockIdx.x);
  part.active = (count + length - 1) / length;
  if (part.split >= part.active) return false;
  part.begin = keys.begin + part.split * length;
  part.end = min(part.begin + length, keys.end);
  part.newest = part.split == part.active - 1;
  part.kv_head = static_cast<int>(blockIdx.y) / plan.chunks;
  const int chunk = static_cast<int>(blockIdx.y) % plan.chunks;
  part.first_row = p.heads.start[part.kv_head] + chunk * plan.rows;
  part.rows = min(plan.rows, p.heads.start[part.kv_head + 1] - part.first_row);
  part.appends = part.newest && chunk == 0;
  return part.rows > 0 || part.appends;
}

// By one warp: the new token's key, and in another call its value, to `fresh` in shared memory, which the block reads in place of the
// cache, and to the cache. Every block that needs the newest key makes it for itself: none waits for another's write.
template <class T>
__device__ __forceinline__ void append_key(const AttentionParameters& p, const SplitPart& part, const float2* rotation, T* fresh) {
  T* row = static_cast<T*>(p.cache) + int64_t{cache_row(p, blocks_of(p, part.sequence), part.kv_head, part.position)} * p.head_dim;
  prepare_head(p, key_offset(p, part.token, part.kv_head), p.key_norm, rotation, [&](int i, float x) {
    const T key = number<T>(x);
    fresh[i] = key;
    if (part.appends) row[i] = key;
  });
}
template <class T>
__device__ __forceinline__ void append_value(const AttentionParameters& p, const SplitPart& part, T* fresh) {
  const int64_t row = int64_t{cache_row(p, blocks_of(p, part.sequence), part.kv_head, part.position)} + p.cache_rows;
  T* target = static_cast<T*>(p.cache) + row * p.head_dim;
  const int64_t offset = value_offset(p, part.token, part.kv_head);
  for (int i = lane_id(); i < p.head_dim; i += kLanes) {
    const T value = number<T>(load_number(p.qkv, p.qkv_dtype, offset + i));
    fresh[i] = value;
    if (part.appends) target[i] = value;
  }
}

// Where the warps of a block leave their results: maxima in units of log2, sums and values weighted by exp2(score - maximum).
struct MergeMemory {
  float2* stats;                                      // [warps, rows]: maximum, sum
  float* values;                                      // [warps, rows, width]
};
__device__ __forceinline__ MergeMemory merge_memory(const SplitPlan& plan, void* shared, int warps) {
  auto* values = static_cast<float*>(shared);
  return {reinterpret_cast<float2*>(values + warps * plan.rows * plan.width), values};
}

__device__ __forceinline__ void add_weighted(float4& sum, float weight, float4 x) {
  sum.x += weight * x.x;
  sum.y += weight * x.y;
  sum.z += weight * x.z;
  sum.w += weight * x.w;
}

__device__ __forceinline__ void store_output(const AttentionParameters& p, const SplitPart& part, int row, int column, float4 x) {
  const int head = p.heads.query[part.first_row + row];
  const int64_t target = (int64_t{part.token} * p.head_count + head) * p.head_dim + column;
  const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < p.head_dim) store_number(p.y, p.y_dtype, target + i, values[i]);
  }
}

// Weight of every part of a row in the whole, by one warp.
__device__ __forceinline__ void weigh_parts(const float2* stats, int stride, int active, float* weights) {
  constexpr int kTurns = (kMaxSplits + kLanes - 1) / kLanes;
  float2 mine[kTurns];
  float top = kLowest;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int split = turn * kLanes + lane_id();
    mine[turn] = make_float2(kLowest, 0.0f);
    if (split < active) {
      const uint2 bits = ptx::load_volatile_8(stats + static_cast<int64_t>(split) * stride);
      mine[turn] = make_float2(__uint_as_float(bits.x), __uint_as_float(bits.y));
    }
    top = fmaxf(top, mine[turn].x);
  }
  top = warp_max(top);
  float total = 0;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    mine[turn].x = exp2f(mine[turn].x - top);
    total += mine[turn].x * mine[turn].y;
  }
  total = warp_sum(total);
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int split = turn * kLanes + lane_id();
    if (split < active) weights[split] = mine[turn].x / total;
  }
}

// By the block that came last: the parts of all blocks into the output. Loads pass by the L1 cache, which knows nothing of other SMs.
__device__ __forceinline__ void combine_parts(const AttentionParameters& p, const SplitPlan& plan, const SplitPart& part, int64_t unit,
                                              float* weights) {
  const float2* stats = plan.stats + unit * plan.splits * plan.rows;
  for (int row = warp_id(); row < part.rows; row += static_cast<int>(blockDim.x) / kLanes) {
    weigh_parts(stats + row, plan.rows, part.active, weights + row * kMaxSplits);
  }
  __syncthreads();
  const int vectors = plan.width / 4;
  const int64_t stride = int64_t{plan.rows} * plan.width;
  for (int item = static_cast<int>(threadIdx.x); item < part.rows * vectors; item += static_cast<int>(blockDim.x)) {
    const int row = item / vectors;
    const int column = item % vectors * 4;
    const float* source = plan.partial + unit * plan.splits * stride + row * plan.width + column;
    const float* weight = weights + row * kMaxSplits;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int split = 0; split < part.active; ++split) {
      const uint4 bits = ptx::load_volatile_16(source + split * stride);
      add_weighted(sum, weight[split],
                   make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)));
    }
    store_output(p, part, row, column, sum);
  }
}

// The results of the block's warps, in `memory` behind a barrier: to the output where this part is all there is, else to the other
// blocks' results, which the last of them brings together. Ends the kernel: all threads of the block come here.
__device__ __forceinline__ void finish_part(const AttentionParameters& p, const SplitPlan& plan, const SplitPart& part,
                                            MergeMemory memory) {
  __shared__ bool last;
  const int warps = static_cast<int>(blockDim.x) / kLanes;
  const int vectors = plan.width / 4;
  const int64_t unit = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const int64_t result = (unit * plan.splits + part.split) * plan.rows;
  for (int item = static_cast<int>(threadIdx.x); item < part.rows * vectors; item += static_cast<int>(blockDim.x)) {
    const int row = item / vectors;
    const int column = item % vectors * 4;
    float top = kLowest;
    for (int warp = 0; warp < warps; ++warp) top = fmaxf(top, memory.stats[warp * plan.rows + row].x);
    float total = 0;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int warp = 0; warp < warps; ++warp) {
      const float2 stats = memory.stats[warp * plan.rows + row];
      const float weight = exp2f(stats.x - top);
      total += weight * stats.y;
      add_weighted(sum, weight, *reinterpret_cast<const float4*>(memory.values + (warp * plan.rows + row) * plan.width + column));
    }
    if (part.active == 1) {
      store_output(p, part, row, column, make_float4(sum.x / total, sum.y / total, sum.z / total, sum.w / total));
    } else {
      *reinterpret_cast<float4*>(plan.partial + (result + row) * plan.width + column) = sum;
      if (column == 0) plan.stats[result + row] = make_float2(top, total);
    }
  }
  if (part.active == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&plan.counters[unit], 1u) == static_cast<uint32_t>(part.active - 1);
    if (last) plan.counters[unit] = 0;
    __threadfence();
  }
  __syncthreads();
  if (last) combine_parts(p, plan, part, unit, memory.values);
}

}  // namespace heddle::cuda
