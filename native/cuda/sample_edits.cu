// Bias and penalties on a rank's own columns, before a token is chosen, and the logits of the model again after it: as
// cpu/logit_edits.cpp. A block for a sequence.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/sample_edits.h"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int32_t kNone = -1;

struct EditCall {
  DeviceStep step;
  float* logits;                                      // [sequences, width] of this rank
  int64_t width;
  int64_t first_id;
  int32_t columns;                                    // padding left out
};

__device__ __forceinline__ DeviceEdit* edits_of(const DeviceStep& step) { return step.edit_base + step.counts->first_edit; }

// The place of a logit; null for ids of other ranks, and for none.
__device__ __forceinline__ float* place_of(const EditCall& call, int sequence, int32_t id) {
  const int64_t column = id - call.first_id;
  return id >= 0 && column >= 0 && column < call.columns ? call.logits + sequence * call.width + column : nullptr;
}

__device__ __forceinline__ float edited(float logit, const DeviceEdit& edit, const DeviceSampling& params) {
  const float biased = logit + edit.bias;
  if (edit.count < 0) return biased;
  const float repeated = biased < 0 ? biased * params.repetition_penalty : biased / params.repetition_penalty;
  if (edit.count == 0) return repeated;
  return repeated - (params.presence_penalty + params.frequency_penalty * static_cast<float>(edit.count));
}

__device__ void apply(const EditCall& call, int sequence, const DeviceSampling& params, DeviceEdit edit, DeviceEdit& kept) {
  float* place = place_of(call, sequence, edit.id);
  if (!place) return;
  kept.original = *place;
  *place = edited(kept.original, edit, params);
}

// The token that the list does not count yet.
__device__ int32_t uncounted_token(const DeviceStep& step, int sequence, const DeviceSampling& params) {
  if (params.penalties == 0) return kNone;
  const int32_t last = step.sequence_starts[sequence + 1] - 1;
  if (step.positions[last] < params.answer_start) return kNone;
  const int32_t token = step.tokens[last];
  return token >= 0 ? token : step.last_tokens[-1 - token];
}

__global__ void __launch_bounds__(kThreads) edit_logits_kernel(EditCall call) {
  __shared__ int counted;
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.x);
  if (sequence >= call.step.counts->sequences) return;
  const DeviceSampling params = call.step.sampling[sequence];
  const int32_t uncounted = uncounted_token(call.step, sequence, params);
  DeviceEdit* edits = edits_of(call.step);
  const int32_t end = call.step.edit_starts[sequence + 1] - params.penalties;
  if (threadIdx.x == 0) counted = uncounted == kNone;
  __syncthreads();
  for (int32_t i = call.step.edit_starts[sequence] + static_cast<int32_t>(threadIdx.x); i < end; i += kThreads) {
    DeviceEdit edit = edits[i];
    if (edit.id == uncounted) {
      edit.count = max(edit.count, 0) + 1;
      counted = 1;
    }
    apply(call, sequence, params, edit, edits[i]);
  }
  __syncthreads();
  if (threadIdx.x != 0 || params.penalties == 0) return;
  DeviceEdit& last = edits[end];                      // kept free for this one
  last = {counted ? kNone : uncounted, 1, 0, 0};
  apply(call, sequence, params, last, last);
}

__global__ void __launch_bounds__(kThreads) restore_logits_kernel(EditCall call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.x);
  if (sequence >= call.step.counts->sequences) return;
  const DeviceEdit* edits = edits_of(call.step);
  const int32_t end = call.step.edit_starts[sequence + 1];
  for (int32_t i = call.step.edit_starts[sequence] + static_cast<int32_t>(threadIdx.x); i < end; i += kThreads) {
    if (float* place = place_of(call, sequence, edits[i].id)) *place = edits[i].original;
  }
}

void launch_edits(const Device& device, const SampleCall& call, void (*kernel)(EditCall)) {
  const int64_t columns = std::min(std::max<int64_t>(call.spec.vocab_size - call.spec.first_id, 0), call.logits.width);
  const EditCall edits = {call.step, call.logits.floats(), call.logits.width, call.spec.first_id, static_cast<int32_t>(columns)};
  launch("sample",
         {.grid = dim3(static_cast<unsigned>(call.shape.sequences)),
          .block = dim3(kThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         kernel, edits);
}

}  // namespace

void edit_logits(const Device& device, const SampleCall& call) { launch_edits(device, call, edit_logits_kernel); }

void restore_logits(const Device& device, const SampleCall& call) { launch_edits(device, call, restore_logits_kernel); }

}  // namespace heddle::cuda
