// Around the library's attention: where sequences begin, keys and values out of the paged cache, and the comparison of two results.
#include <algorithm>

#include "cuda/attention_head.cuh"
#include "cuda/attention_library.h"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGatheredKeys = 16;                     // of a sequence, by one block

struct Part {                                         // of a sequence, in this step
  int first;
  int count;                                          // 0: attention_decode's
  int keys;
};
__device__ __forceinline__ Part part_of(const AttentionParameters& p, int sequence) {
  Part part = {0, 0, 0};
  if (sequence >= p.step.counts->sequences) return part;
  part.first = p.step.sequence_starts[sequence];
  const int end = p.step.sequence_starts[sequence + 1];
  if (end - part.first < (p.decode_follows ? 2 : 1)) return part;
  part.count = end - part.first;
  part.keys = p.step.positions[end - 1] + 1;
  return part;
}

// Where keys begin is a sum over the sequences before: by one thread, over numbers that all have fetched.
__global__ void __launch_bounds__(kThreads) layout_kernel(AttentionParameters p, int sequences, int32_t* query_counts, int32_t* key_counts,
                                                         int32_t* query_starts, int32_t* key_starts) {
  __shared__ int keys[kThreads];
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int query_width = p.head_count * p.head_dim;
  const int key_width = p.kv_head_count * p.head_dim;
  const auto lane = static_cast<int>(threadIdx.x);
  int before = 0;
  for (int begin = 0; begin < sequences; begin += kThreads) {
    const int sequence = begin + lane;
    const Part part = part_of(p, sequence);
    keys[lane] = part.keys;
    if (sequence < sequences) {
      query_counts[sequence] = part.count;
      key_counts[sequence] = part.keys;
      query_starts[sequence] = (sequence < p.step.counts->sequences ? p.step.sequence_starts[sequence] : p.step.counts->tokens) * query_width;
    }
    __syncthreads();
    if (lane == 0) {
      for (int i = 0; i < min(kThreads, sequences - begin); ++i) {
        key_starts[begin + i] = before * key_width;
        before += keys[i];
      }
    }
    __syncthreads();
  }
  if (lane > 0) return;
  query_starts[sequences] = p.step.counts->tokens * query_width;
  key_starts[sequences] = before * key_width;
}

__global__ void __launch_bounds__(kThreads) gather_kernel(AttentionParameters p, const int32_t* key_starts, uint4* keys, uint4* values) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.y);
  const Part part = part_of(p, sequence);
  const int first = static_cast<int>(blockIdx.x) * kGatheredKeys;
  const int count = min(kGatheredKeys, part.keys - first);
  if (count <= 0) return;
  constexpr int kVector = 8;                          // elements of 16 bits in 16 bytes
  const int vectors = p.head_dim / kVector;
  const int row = p.kv_head_count * vectors;          // of one key
  const int32_t* blocks = blocks_of(p, sequence);
  const auto* cache = static_cast<const uint4*>(p.cache);
  const int64_t start = key_starts[sequence] / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < count * row; i += kThreads) {
    const int key = first + i / row;
    const int kv_head = i % row / vectors;
    const int64_t source = int64_t{cache_row(p, blocks, kv_head, key)} * vectors + i % vectors;
    const int64_t target = start + int64_t{first} * row + i;
    keys[target] = cache[source];
    values[target] = cache[source + int64_t{p.cache_rows} * vectors];
  }
}

__device__ __forceinline__ float magnitude(float x) { return x == x ? fabsf(x) : INFINITY; }

// Floats that are not negative are ordered as their bits are.
__global__ void __launch_bounds__(kThreads) compare_kernel(AttentionParameters p, const void* a, const void* b, uint32_t* result) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto token = static_cast<int>(blockIdx.x);
  if (token >= p.step.counts->tokens || part_of(p, p.step.sequence_of_token[token]).count == 0) return;
  const int width = p.head_count * p.head_dim;
  float difference = 0, largest = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kThreads) {
    const int64_t at = int64_t{token} * width + i;
    const float x = load_number(a, p.y_dtype, at), y = load_number(b, p.y_dtype, at);
    difference = fmaxf(difference, magnitude(x - y));
    largest = fmaxf(largest, magnitude(y));
  }
  difference = warp_max(difference);
  largest = warp_max(largest);
  if (lane_id() > 0) return;
  atomicMax(result, __float_as_uint(difference));
  atomicMax(result + 1, __float_as_uint(largest));
}

Launch spec_of(const Device& device, dim3 grid) {
  return {.grid = grid, .block = dim3(kThreads), .stream = device.stream(), .dependent = device.dependent_launch()};
}

}  // namespace

void lay_out_prompts(const Device& device, const AttentionParameters& p, int64_t sequences, int32_t* query_counts, int32_t* key_counts,
                     int32_t* query_starts, int32_t* key_starts) {
  launch("attention", spec_of(device, dim3(1)), layout_kernel, p, static_cast<int>(sequences), query_counts, key_counts, query_starts, key_starts);
}

void gather_keys(const Device& device, const AttentionParameters& p, const StepShape& shape, const int32_t* key_starts, void* keys,
                 void* values) {
  const auto tiles = static_cast<unsigned>((shape.longest_context + kGatheredKeys - 1) / kGatheredKeys);
  launch("attention", spec_of(device, dim3(tiles, static_cast<unsigned>(shape.sequences))), gather_kernel, p, key_starts,
         static_cast<uint4*>(keys), static_cast<uint4*>(values));
}

void compare_prompts(const Device& device, const AttentionParameters& p, const StepShape& shape, const void* a, const void* b, float* result) {
  check(cudaMemsetAsync(result, 0, 2 * sizeof(float), device.stream()), "attention");
  launch("attention", spec_of(device, dim3(static_cast<unsigned>(shape.tokens))), compare_kernel, p, a, b, reinterpret_cast<uint32_t*>(result));
}

}  // namespace heddle::cuda
