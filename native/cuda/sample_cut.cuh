// Where a list ends when its items are taken largest key first until what they weigh is enough: top-k and top-p alike.
// Rule: nothing is sorted; eight bits of the key at a time tell in which bucket the end lies. blockDim.x is at least 256.
#pragma once
#include <cuda_runtime.h>

#include "cuda/sample_plan.h"

namespace heddle::cuda {

struct CutBucket {
  Word before;                                        // weight of the buckets above
  Word weight;
  uint32_t count;
  int32_t index;                                      // -1: all items together weigh less than is wanted
};

// The bucket in which the sum from bucket 255 downwards reaches `wanted`.
__device__ __forceinline__ void find_bucket(const Word* weights, const uint32_t* counts, Word wanted, CutBucket& found) {
  __shared__ Word totals[32];
  const int thread = static_cast<int>(threadIdx.x);
  const int bucket = 255 - thread;
  const Word own = bucket >= 0 ? weights[bucket] : 0;
  Word sum = own;
  for (int distance = 1; distance < 32; distance *= 2) {
    const Word left = __shfl_up_sync(0xffffffffu, sum, static_cast<unsigned>(distance));
    if (thread % 32 >= distance) sum += left;
  }
  if (thread % 32 == 31) totals[thread / 32] = sum;
  __syncthreads();
  for (int warp = 0; warp < thread / 32; ++warp) sum += totals[warp];
  if (bucket >= 0 && sum - own < wanted && wanted <= sum) found = {sum - own, own, counts[bucket], bucket};
}

// for_each(f) calls f(key, weight) for each of a thread's items; keys are distinct, and 0 is no item. Items with at least the key that is
// returned, on every thread, are those before which less than `wanted` lies. `wanted` is not 0.
template <class ForEach>
__device__ __forceinline__ Word cut(Word wanted, ForEach&& for_each) {
  __shared__ Word weights[256];
  __shared__ uint32_t counts[256];
  __shared__ CutBucket found;
  Word prefix = 0;                                    // of the keys among which the end lies
  for (int shift = 56; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += static_cast<int>(blockDim.x)) {
      weights[i] = 0;
      counts[i] = 0;
    }
    if (threadIdx.x == 0) found.index = -1;
    __syncthreads();
    for_each([&](Word key, Word weight) {
      if (key == 0 || (shift < 56 && key >> (shift + 8) != prefix)) return;
      const auto bucket = static_cast<int>(key >> shift & 255);
      atomicAdd(&weights[bucket], weight);
      atomicAdd(&counts[bucket], 1u);
    });
    __syncthreads();
    find_bucket(weights, counts, wanted, found);
    __syncthreads();
    if (found.index < 0) return 1;
    wanted -= found.before;
    prefix = prefix << 8 | static_cast<Word>(found.index);
    const bool all_of_it = found.weight == found.count && wanted == found.weight;   // counted, and every one is needed
    if (found.count == 1 || all_of_it) return max(prefix << shift, Word{1});   // the lowest keys have a prefix of 0
  }
  return prefix;
}

}  // namespace heddle::cuda
