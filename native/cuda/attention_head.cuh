// What attention kernels share: addresses of the paged cache, elements of any dtype, and the preparation of one head by one warp.
// Rule: position p of a sequence is row p % blockSize of block blockTable[sequence][p / blockSize]; row 0 of the values follows the
// last row of the keys.
#pragma once
#include "cuda/attention_parameters.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kLanes = 32;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kSlack = 8;                           // in units of log2: weights of up to 2^kSlack do no harm in 16 bits
constexpr float kLowest = -1e30f;                     // below every score, and finite: no NaN where a row has seen no key yet

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kLanes; }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

__device__ __forceinline__ float load_number(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::float32) return static_cast<const float*>(data)[index];
  if (dtype == DType::bfloat16) return to_float(static_cast<const bfloat16*>(data)[index]);
  return to_float(static_cast<const float16*>(data)[index]);
}

__device__ __forceinline__ void store_number(void* data, DType dtype, int64_t index, float x) {
  if (dtype == DType::float32) {
    static_cast<float*>(data)[index] = x;
  } else if (dtype == DType::bfloat16) {
    from_float(x, static_cast<bfloat16*>(data)[index]);
  } else {
    from_float(x, static_cast<float16*>(data)[index]);
  }
}

// What weights are taken relative to, where `top` is the largest new score: a maximum that grows little stays, since every change costs
// a pass over the sums so far.
__device__ __forceinline__ float raised(float maximum, float top) { return top > maximum + kSlack ? top : maximum; }

// The keys that the query at `position` sees, of a sequence that has `context` keys.
struct KeyRange {
  int begin;
  int end;
};
__device__ __forceinline__ KeyRange visible_keys(const AttentionParameters& p, int position, int context) {
  const int begin = p.sliding_window > 0 ? max(0, position - p.sliding_window + 1) : 0;
  return {begin, p.causal ? position + 1 : context};
}

// Row of the keys in the cache; the row of the values is p.cache_rows further.
__device__ __forceinline__ int cache_row(const AttentionParameters& p, const int32_t* blocks, int kv_head, int position) {
  const auto at = static_cast<uint32_t>(position);
  const auto size = static_cast<uint32_t>(p.block_size);
  const uint32_t block = at / size;
  return (blocks[block] * p.kv_head_count + kv_head) * p.block_size + static_cast<int>(at - block * size);
}

__device__ __forceinline__ const int32_t* blocks_of(const AttentionParameters& p, int sequence) {
  return p.step.block_table + int64_t{sequence} * p.step.counts->blocks_per_sequence;
}

// Cosines and sines of one position, times ropeScale; by all threads of the block, with a barrier to follow. The angle is float32, as
// the models were trained, and may be large: no fast sine.
__device__ __forceinline__ void fill_rotation(const AttentionParameters& p, int position, float2* rotation) {
  for (int i = static_cast<int>(threadIdx.x); i < p.rope_half; i += static_cast<int>(blockDim.x)) {
    const float angle = static_cast<float>(position) * p.inverse_frequencies[i];
    rotation[i] = make_float2(cosf(angle) * p.rope_scale, sinf(angle) * p.rope_scale);
  }
}

// Calls store(i, x) with every element of the head at `offset` of qkv, normalised and rotated, each by one lane.
template <class Store>
__device__ __forceinline__ void prepare_head(const AttentionParameters& p, int64_t offset, const float* norm, const float2* rotation,
                                             Store store) {
  const int lane = lane_id();
  float factor = 1;
  if (norm) {
    float squares = 0;
    for (int i = lane; i < p.head_dim; i += kLanes) {
      const float x = load_number(p.qkv, p.qkv_dtype, offset + i);
      squares += x * x;
    }
    factor = rsqrtf(warp_sum(squares) / static_cast<float>(p.head_dim) + p.norm_eps);
  }
  const auto element = [&](int i) {
    const float x = load_number(p.qkv, p.qkv_dtype, offset + i);
    return norm ? x * factor * norm[i] : x;
  };
  for (int i = lane; i < p.rope_half; i += kLanes) {
    const float low = element(i);
    const float high = element(i + p.rope_half);
    store(i, low * rotation[i].x - high * rotation[i].y);
    store(i + p.rope_half, high * rotation[i].x + low * rotation[i].y);
  }
  for (int i = 2 * p.rope_half + lane; i < p.head_dim; i += kLanes) store(i, element(i));
}

// Offsets in qkv of a token's heads.
__device__ __forceinline__ int64_t query_offset(const AttentionParameters& p, int token, int head) {
  return token * p.qkv_width() + int64_t{head} * p.head_dim;
}
__device__ __forceinline__ int64_t key_offset(const AttentionParameters& p, int token, int kv_head) {
  return query_offset(p, token, p.head_count + kv_head);
}
__device__ __forceinline__ int64_t value_offset(const AttentionParameters& p, int token, int kv_head) {
  return query_offset(p, token, p.head_count + p.kv_head_count + kv_head);
}

}  // namespace heddle::cuda
