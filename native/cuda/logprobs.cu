// Log-probabilities of the chosen and of the likeliest tokens, as cpu/logprobs.cpp: each rank reads its own columns, and ranks
// gather a few numbers for each sequence. A block for a sequence; nothing is launched where nobody asks.
// Rule: sums are made in one order, so that every rank and every replay gets the same bits.
#include "cuda/logprobs.h"

#include <algorithm>

#include "cuda/sample_device.cuh"

namespace heddle::cuda {

namespace {

constexpr int kFindThreads = 512;
constexpr int kTellThreads = 32;

// What a rank knows of a row.
struct Finding {
  double total;                                       // of exp(logit - largest)
  float largest;
  float chosen;                                       // logit of the chosen token; -infinity where another rank has it
  Word best[kMaxLogprobs];                            // keys, best first; 0 beyond those asked for
};

struct LogprobCall {
  DeviceStep step;
  const float* logits;                                // [sequences, width] of this rank
  int64_t width;
  int64_t first_id;
  int32_t columns;                                    // padding left out
  int32_t ranks;
  int32_t sequences;                                  // of the bucket: rows of a message
  Finding* mine;                                      // [sequences]
  const Finding* all;                                 // [ranks, sequences]
};

__device__ __forceinline__ float minus_infinity() { return -std::numeric_limits<float>::infinity(); }

__device__ double block_sum_of(double value) {
  __shared__ double partials[kFindThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (const double partial : partials) sum += partial;
  return sum;
}

__global__ void __launch_bounds__(kFindThreads) find_logprobs_kernel(LogprobCall call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.x);
  if (sequence >= call.step.counts->sequences) return;
  const int32_t wanted = call.step.sampling[sequence].logprobs;
  if (wanted < 0) return;
  const float* row = call.logits + sequence * call.width;
  // Each round finds the best key below the last one: rows are short once they are in the L2 cache, and few ask for many.
  const auto best_below = [&](Word bound) {
    Word best = 0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < call.columns; i += kFindThreads) {
      const Word key = key_of(row[i], static_cast<int32_t>(call.first_id) + i);
      if (key < bound) best = max(best, key);
    }
    return block_max(best);
  };
  Finding& finding = call.mine[sequence];
  Word best = best_below(~Word{0});
  const float largest = best == 0 ? minus_infinity() : logit_of(best);
  double total = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); best != 0 && i < call.columns; i += kFindThreads) {
    if (row[i] > minus_infinity()) total += static_cast<double>(expf(row[i] - largest));
  }
  total = block_sum_of(total);
  for (int i = 0; i < kMaxLogprobs; ++i) {
    if (threadIdx.x == 0) finding.best[i] = i < wanted ? best : 0;
    if (i + 1 < wanted && best != 0) best = best_below(best);
  }
  if (threadIdx.x != 0) return;
  const int64_t column = call.step.sampled[sequence] - call.first_id;
  finding.total = total;
  finding.largest = largest;
  finding.chosen = column >= 0 && column < call.columns ? row[column] : minus_infinity();
}

// One warp: a lane for some of the ranks.
__global__ void __launch_bounds__(kTellThreads) tell_logprobs_kernel(LogprobCall call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.x);
  if (sequence >= call.step.counts->sequences) return;
  const int32_t wanted = call.step.sampling[sequence].logprobs;
  if (wanted < 0) return;
  const auto finding_of = [&](int rank) -> const Finding& { return call.all[int64_t{rank} * call.sequences + sequence]; };
  float largest = minus_infinity();
  float chosen = minus_infinity();
  for (int rank = 0; rank < call.ranks; ++rank) {
    largest = fmaxf(largest, finding_of(rank).largest);
    chosen = fmaxf(chosen, finding_of(rank).chosen);
  }
  double total = 0;
  for (int rank = 0; rank < call.ranks; ++rank) {
    const Finding& finding = finding_of(rank);
    if (finding.total > 0) total += finding.total * exp(static_cast<double>(finding.largest) - largest);
  }
  const double log_total = largest + log(total);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_total); };
  TokenLogprob* found = call.step.logprobs + int64_t{sequence} * (1 + kMaxLogprobs);
  if (threadIdx.x == 0) found[0] = {call.step.sampled[sequence], logprob(chosen)};
  Word bound = ~Word{0};
  for (int i = 0; i < wanted; ++i) {
    Word best = 0;
    for (int rank = static_cast<int>(threadIdx.x); rank < call.ranks; rank += kTellThreads) {
      for (int k = 0; k < wanted; ++k) {
        const Word key = finding_of(rank).best[k];
        if (key < bound) best = max(best, key);
      }
    }
    for (int distance = 16; distance > 0; distance /= 2) best = max(best, __shfl_xor_sync(kAllLanes, best, distance));
    if (threadIdx.x == 0) found[1 + i] = best == 0 ? TokenLogprob{-1, minus_infinity()} : TokenLogprob{id_of(best), logprob(logit_of(best))};
    bound = best;
  }
}

}  // namespace

void logprobs(const Device& device, const SampleCall& call, DeviceCommunicator& communicator) {
  const auto sequences = static_cast<size_t>(call.shape.sequences);
  const auto ranks = static_cast<size_t>(communicator.size());
  const size_t bytes = sequences * sizeof(Finding);
  auto* memory = static_cast<unsigned char*>(device.scratch(Scratch::sample, bytes * (ranks > 1 ? 1 + ranks : 1)));
  auto* all = ranks > 1 ? memory + bytes : memory;
  const int64_t columns = std::min(std::max<int64_t>(call.spec.vocab_size - call.spec.first_id, 0), call.logits.width);
  const LogprobCall kernels = {call.step,
                               call.logits.floats(),
                               call.logits.width,
                               call.spec.first_id,
                               static_cast<int32_t>(columns),
                               static_cast<int32_t>(ranks),
                               static_cast<int32_t>(sequences),
                               reinterpret_cast<Finding*>(memory),
                               reinterpret_cast<const Finding*>(all)};
  const auto with = [&](int threads) -> Launch {
    return {.grid = dim3(static_cast<unsigned>(sequences)),
            .block = dim3(static_cast<unsigned>(threads)),
            .stream = device.stream(),
            .dependent = device.dependent_launch()};
  };
  launch("logprobs", with(kFindThreads), find_logprobs_kernel, kernels);
  if (ranks > 1) communicator.gather(memory, bytes, all);
  launch("logprobs", with(kTellThreads), tell_logprobs_kernel, kernels);
}

void append_logprobs(const std::vector<SamplingParams>& sampling, const TokenLogprob* rows, std::vector<TokenLogprob>& found) {
  for (const SamplingParams& params : sampling) {
    if (params.logprobs >= 0) found.insert(found.end(), rows, rows + 1 + params.logprobs);
    rows += 1 + kMaxLogprobs;
  }
}

}  // namespace heddle::cuda
