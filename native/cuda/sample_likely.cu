// Top-p over the whole vocabulary: its mass, and the short list of what may be in the nucleus.
#include "cuda/sample_device.cuh"
#include "cuda/sample_logits.cuh"

namespace heddle::cuda {

namespace {

bool __device__ has_nucleus_of_all(const SampleKernels& call, const DeviceSampling& params) {
  return method_of(params, call.spec.vocab_size) == Method::all && !cuts_to_top_k(call, params);
}

__global__ void __launch_bounds__(kSampleThreads) total_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.y);
  if (sequence >= call.step.counts->sequences) return;
  const DeviceSampling params = call.step.sampling[sequence];
  if (!has_nucleus_of_all(call, params)) return;
  const Word best = best_of_all(call, sequence);
  if (best == 0) return;
  const float largest = logit_of(best);
  Word sum = 0;
  for_each_logit(call, sequence, static_cast<int>(blockIdx.x), call.plan.parts, [&](float logit, int32_t) {
    sum += mass(fast_weight(logit, largest, params.temperature), call.plan.fraction_bits);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) atomicAdd(&call.memory.totals[sequence], sum);
}

// What is before a token in the order has less than top_p of the mass only if the token and all after it have more than the rest; they
// have at most its weight times their number. So lighter ones are left out.
__global__ void __launch_bounds__(kSampleThreads) likely_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.y);
  if (sequence >= call.step.counts->sequences) return;
  const DeviceSampling params = call.step.sampling[sequence];
  if (!has_nucleus_of_all(call, params)) return;
  const Word best = best_of_all(call, sequence);
  if (best == 0) return;
  const float largest = logit_of(best);
  const double total = static_cast<double>(call.memory.totals[sequence]);
  const double tail = (1.0 - static_cast<double>(params.top_p)) * total / static_cast<double>(column_count(call));
  const auto bound = static_cast<Word>(tail * 0.999);
  uint32_t* used = &call.memory.counts[sequence];
  Word* list = call.memory.likely + int64_t{sequence} * kListItems;
  for_each_logit(call, sequence, static_cast<int>(blockIdx.x), call.plan.parts, [&](float logit, int32_t id) {
    if (mass(fast_weight(logit, largest, params.temperature), call.plan.fraction_bits) < bound || *used > kListItems) return;
    const uint32_t slot = atomicAdd(used, 1u);
    if (slot < kListItems) list[slot] = key_of(logit, id);
  });
}

}  // namespace

void launch_find_likely(const Device& device, const SampleKernels& call) {
  const Launch spec{.grid = dim3(static_cast<unsigned>(call.plan.parts), static_cast<unsigned>(call.plan.sequences)),
                    .block = dim3(kSampleThreads),
                    .stream = device.stream(),
                    .dependent = device.dependent_launch()};
  launch("sample", spec, total_kernel, call);
  launch("sample", spec, likely_kernel, call);
}

}  // namespace heddle::cuda
