// The gathered logits of a sequence: those of every rank, behind one another, each with its own ids.
#pragma once
#include "cuda/sample_device.cuh"

namespace heddle::cuda {

// Of all ranks, padding left out.
__device__ __forceinline__ int64_t column_count(const SampleKernels& call) {
  int64_t count = 0;
  for (int rank = 0; rank < call.plan.ranks; ++rank) count += header_of(call, rank).columns;
  return count;
}

// A top-k beyond what ranks exchange as candidates.
__device__ __forceinline__ bool cuts_to_top_k(const SampleKernels& call, const DeviceSampling& params) {
  return params.top_k > 0 && params.top_k < column_count(call);
}

// Calls body(logit, id) for this thread's share of the part that block `part` of `parts` has, NaN and -infinity left out.
template <class Body>
__device__ __forceinline__ void for_each_logit(const SampleKernels& call, int sequence, int part, int parts, Body&& body) {
  const SamplePlan& plan = call.plan;
  for (int rank = 0; rank < plan.ranks; ++rank) {
    const SampleHeader header = header_of(call, rank);
    const float* logits = call.memory.logits + (int64_t{rank} * plan.sequences + sequence) * plan.most_columns;
    const int64_t stride = int64_t{parts} * blockDim.x;
    for (int64_t i = int64_t{part} * blockDim.x + threadIdx.x; i < header.columns; i += stride) {
      const float logit = logits[i];
      if (logit > -std::numeric_limits<float>::infinity()) body(logit, static_cast<int32_t>(header.first_id + i));
    }
  }
}

}  // namespace heddle::cuda
