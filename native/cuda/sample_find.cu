// What a rank can say from its own columns: best logits, best noisy scores, and candidates for top-k.
#include "cuda/sample_cut.cuh"
#include "cuda/sample_device.cuh"

namespace heddle::cuda {

namespace {

constexpr int kItemsPerThread = kSelectItems / kSampleThreads;

// A block's place in the step, and the logits that it reads.
struct Row {
  int sequence;
  bool real;                                          // not padding of a bucket
  const float* logits;
  int32_t columns;
  int32_t first_id;

  __device__ explicit Row(const SampleKernels& call) {
    sequence = static_cast<int>(blockIdx.y);
    real = sequence < call.step.counts->sequences;
    logits = call.logits + sequence * call.width;
    const int64_t count = min(call.spec.vocab_size - call.spec.first_id, call.width);
    columns = static_cast<int32_t>(max(count, int64_t{0}));
    first_id = static_cast<int32_t>(call.spec.first_id);
  }
};

// By each kernel that may be the first: they all write the same.
__device__ void write_header(const SampleKernels& call, const Row& row) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    *place<SampleHeader>(call.memory.message, 0) = {call.spec.first_id, row.columns, 0};
  }
}

__global__ void __launch_bounds__(kSampleThreads) find_best_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const Row row(call);
  write_header(call, row);
  if (!row.real) return;
  const Share share(call.plan, static_cast<int>(blockIdx.x), row.columns);
  Word best = 0;
#pragma unroll 4
  for (int64_t i = share.begin + threadIdx.x; i < share.end; i += kSampleThreads) {
    best = max(best, key_of(row.logits[i], row.first_id + static_cast<int32_t>(i)));
  }
  best = block_max(best);
  if (threadIdx.x != 0) return;
  place<Word>(call.memory.message, call.plan.best_offset)[int64_t{row.sequence} * call.plan.parts + blockIdx.x] = best;
  if (call.plan.all_logits && blockIdx.x == 0) {
    call.memory.totals[row.sequence] = 0;
    call.memory.counts[row.sequence] = 0;
  }
}

// Logits below this have less than min_p of the probability of the largest.
__device__ double lowest_logit(const SampleKernels& call, int sequence, const DeviceSampling& params) {
  if (!(params.min_p > 0)) return -std::numeric_limits<double>::infinity();
  const Word best = best_of_all(call, sequence);
  if (best == 0) return std::numeric_limits<double>::infinity();
  return logit_of(best) + static_cast<double>(params.temperature) * static_cast<double>(logf(fminf(params.min_p, 1.0f)));
}

__global__ void __launch_bounds__(kSampleThreads) find_picks_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const Row row(call);
  if (!call.plan.bounded_picks) write_header(call, row);
  if (!row.real) return;
  const DeviceSampling params = call.step.sampling[row.sequence];
  if (method_of(params, call.spec.vocab_size) != Method::noise) return;
  const double lowest = lowest_logit(call, row.sequence, params);
  const Share share(call.plan, static_cast<int>(blockIdx.x), row.columns);
  const Noise noise(call.step, row.sequence);
  const Pick best = noisy_best(params, noise, [&](auto consider) {
    for (int64_t i = share.begin + threadIdx.x; i < share.end; i += kSampleThreads) {
      const float logit = row.logits[i];
      if (logit > -std::numeric_limits<float>::infinity() && !(logit < lowest)) consider(logit, row.first_id + static_cast<int32_t>(i));
    }
  });
  if (threadIdx.x != 0) return;
  auto* picks = call.plan.bounded_picks ? place<Pick>(call.memory.bounded, 0) : place<Pick>(call.memory.message, call.plan.picks_offset);
  picks[int64_t{row.sequence} * call.plan.parts + blockIdx.x] = best;
}

// The best top_k of kSelectItems keys that stand in registers, in any order, then zeros up to plan.kept.
__device__ void keep_best(const Word (&keys)[kItemsPerThread], int32_t top_k, int32_t kept, Word* target) {
  __shared__ uint32_t used;
  const Word bound = cut(static_cast<Word>(top_k), [&](auto item) {
    for (const Word key : keys) item(key, Word{1});
  });
  if (threadIdx.x == 0) used = 0;
  __syncthreads();
  for (const Word key : keys) {
    if (key >= bound) target[atomicAdd(&used, 1u)] = key;
  }
  __syncthreads();
  for (uint32_t i = used + threadIdx.x; i < static_cast<uint32_t>(kept); i += kSampleThreads) target[i] = 0;
}

__global__ void __launch_bounds__(kSampleThreads) first_candidates_kernel(SampleKernels call, Word* target, int64_t target_stride) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const Row row(call);
  write_header(call, row);
  if (!row.real) return;
  const DeviceSampling params = call.step.sampling[row.sequence];
  if (method_of(params, call.spec.vocab_size) != Method::top_k) return;
  Word keys[kItemsPerThread];
#pragma unroll
  for (int i = 0; i < kItemsPerThread; ++i) {
    const int64_t column = int64_t{blockIdx.x} * kSelectItems + i * kSampleThreads + threadIdx.x;
    keys[i] = column < row.columns ? key_of(row.logits[column], row.first_id + static_cast<int32_t>(column)) : 0;
  }
  keep_best(keys, params.top_k, call.plan.kept, target + row.sequence * target_stride + int64_t{blockIdx.x} * call.plan.kept);
}

__global__ void __launch_bounds__(kSampleThreads)
    fewer_candidates_kernel(SampleKernels call, const Word* source, int64_t count, Word* target, int64_t target_stride) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const Row row(call);
  if (!row.real) return;
  const DeviceSampling params = call.step.sampling[row.sequence];
  if (method_of(params, call.spec.vocab_size) != Method::top_k) return;
  Word keys[kItemsPerThread];
#pragma unroll
  for (int i = 0; i < kItemsPerThread; ++i) {
    const int64_t item = int64_t{blockIdx.x} * kSelectItems + i * kSampleThreads + threadIdx.x;
    keys[i] = item < count ? source[row.sequence * count + item] : 0;
  }
  keep_best(keys, params.top_k, call.plan.kept, target + row.sequence * target_stride + int64_t{blockIdx.x} * call.plan.kept);
}

__global__ void __launch_bounds__(kSampleThreads) pad_logits_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const Row row(call);
  float* target = call.memory.padded + row.sequence * call.plan.most_columns;
  for (int64_t i = int64_t{blockIdx.x} * kSampleThreads + threadIdx.x; i < row.columns; i += int64_t{gridDim.x} * kSampleThreads) {
    target[i] = row.logits[i];
  }
}

Launch of_sequences(const Device& device, const SampleKernels& call, int64_t blocks) {
  return {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(call.plan.sequences)),
          .block = dim3(kSampleThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()};
}

}  // namespace

void launch_find_best(const Device& device, const SampleKernels& call) {
  launch("sample", of_sequences(device, call, call.plan.parts), find_best_kernel, call);
}

void launch_find_picks(const Device& device, const SampleKernels& call) {
  launch("sample", of_sequences(device, call, call.plan.parts), find_picks_kernel, call);
}

void launch_pad_logits(const Device& device, const SampleKernels& call) {
  launch("sample", of_sequences(device, call, call.plan.parts), pad_logits_kernel, call);
}

void launch_find_candidates(const Device& device, const SampleKernels& call) {
  auto* const message = reinterpret_cast<Word*>(call.memory.message + call.plan.candidates_offset);
  const auto target_of = [&](int64_t count, int turn) { return count == call.plan.candidates ? message : call.memory.lists[turn]; };
  int64_t count = kept_of(call.plan.most_columns, call.plan.kept);
  Word* list = target_of(count, 0);
  launch("sample", of_sequences(device, call, count / call.plan.kept), first_candidates_kernel, call, list, count);
  for (int turn = 1; count > call.plan.candidates; turn = 1 - turn) {
    const int64_t fewer = kept_of(count, call.plan.kept);
    Word* target = target_of(fewer, turn);
    launch("sample", of_sequences(device, call, fewer / call.plan.kept), fewer_candidates_kernel, call, list, count, target, fewer);
    list = target;
    count = fewer;
  }
}

}  // namespace heddle::cuda
