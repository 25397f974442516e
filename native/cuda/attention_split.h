// How decode shares out the keys of a sequence: a block takes some query heads of one KV head and one part of the keys.
// Rule: the plan follows from the shape of a step alone; how many of its parts a sequence fills is seen on the device.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/attention_parameters.h"

namespace heddle::cuda {

constexpr int32_t kMaxSplits = 96;                    // beyond, adding up the parts costs more than it gains
constexpr int32_t kSplitKeys = 64;                    // a part holds a multiple of this many keys

struct SplitPlan {
  int32_t rows = 0;                                   // query heads of a block at most
  int32_t chunks = 0;                                 // blocks that share the query heads of a KV head
  int32_t splits = 0;                                 // parts of the keys at most
  int32_t width = 0;                                  // floats of a row of `partial`: headDim, padded to 16 bytes
  float* partial = nullptr;                           // [sequences, kv_heads, chunks, splits, rows, width]: weighted sums of values
  float2* stats = nullptr;                            // [sequences, kv_heads, chunks, splits, rows]: largest score, sum of weights
  uint32_t* counters = nullptr;                       // [sequences, kv_heads, chunks]: parts that are done; zero between kernels
};

// Parts for about two blocks on every SM, and the memory for their results. `rows`: query heads that a block of the kernel takes.
SplitPlan plan_split(const Device& device, const AttentionParameters& p, const StepShape& shape, int32_t rows);

// Grid of a decode kernel: parts, query heads, sequences.
dim3 grid_of(const SplitPlan& plan, const AttentionParameters& p, const StepShape& shape);

// Bytes of shared memory in which a block of `warps` warps brings its results together.
size_t merge_bytes(const SplitPlan& plan, int warps);

// Any head dimension and dtypes.
void attention_decode_plain(const Device& device, const AttentionParameters& p, const StepShape& shape);

}  // namespace heddle::cuda
