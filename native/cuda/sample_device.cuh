// What the kernels of sampling share: ordered keys of candidates, the noise, and reductions over a block.
// Rule: integer sums and maxima alone cross threads, so the result never depends on their order and every rank draws the same.
#pragma once
#include <limits>

#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"
#include "cuda/sample_plan.h"
#include "cuda/step.h"

namespace heddle::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// A logit and its id as one number, larger where the CPU's order has it earlier: higher logits first, of equal ones the lowest id.
// 0: none. A logit that is NaN or -infinity is no candidate.
__device__ __forceinline__ Word key_of(float logit, int32_t id) {
  if (!(logit > -std::numeric_limits<float>::infinity())) return 0;
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 becomes 0
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return Word{ordered} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int32_t id_of(Word key) {
  return key == 0 ? 0 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}
__device__ __forceinline__ float logit_of(Word key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

enum class Method : uint8_t { greedy, noise, top_k, all };

__device__ __forceinline__ Method method_of(const DeviceSampling& params, int64_t vocab_size) {
  if (!(params.temperature > 0)) return Method::greedy;
  const bool top_k = params.top_k > 0 && params.top_k < vocab_size;
  if (top_k && params.top_k <= kMaxExchangedCandidates) return Method::top_k;
  return top_k || params.top_p < 1 ? Method::all : Method::noise;
}

// Gumbel noise keyed by (seed, position of the token being made, id), bit by bit that of cpu/sample_candidates.cpp.
class Noise {
 public:
  __device__ Noise(const DeviceStep& step, int sequence) {
    const int64_t position = int64_t{step.positions[step.sequence_starts[sequence + 1] - 1]} + 1;
    key_ = mix(mix(step.sampling[sequence].seed + kGolden) ^ (static_cast<uint64_t>(position) * 0xd1b54a32d192ed03u));
  }
  __device__ __forceinline__ uint64_t bits(int32_t id) const { return mix(key_ + (static_cast<uint64_t>(id) + 1) * kGolden); }
  static __device__ __forceinline__ double value(uint64_t bits) {
    const double uniform = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
    return -log(-log(uniform));
  }
  // The same without double precision: between `least` and `most` of it. +infinity where float32 holds no more of the bits.
  static __device__ __forceinline__ float likely_value(uint64_t bits) {
    return -logf(-logf((static_cast<float>(bits >> 12) + 0.5f) * 0x1p-52f));
  }
  static __device__ __forceinline__ float least(float likely) { return likely < 9.0f ? likely - 0.01f : fminf(likely, 16.0f) - 1.0f; }
  static __device__ __forceinline__ float most(float likely) { return likely < 9.0f ? likely + 0.01f : likely + 1.0f; }

 private:
  static constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  static __device__ __forceinline__ uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t key_;
};

// ---- messages ----

template <class T>
__device__ __forceinline__ T* place(unsigned char* message, size_t offset) {
  return reinterpret_cast<T*>(message + offset);
}
__device__ __forceinline__ unsigned char* message_of(const SampleKernels& call, int rank) {
  return call.memory.messages + static_cast<size_t>(rank) * call.plan.bytes;
}
__device__ __forceinline__ const SampleHeader& header_of(const SampleKernels& call, int rank) {
  return *place<const SampleHeader>(message_of(call, rank), 0);
}

// The share that block `part` of plan.parts has in a row of `count` columns.
struct Share {
  int64_t begin, end;
  __device__ Share(const SamplePlan& plan, int part, int64_t count) {
    const int64_t span = (count + plan.parts - 1) / plan.parts;
    begin = min(part * span, count);
    end = min(begin + span, count);
  }
};

// ---- over a block; all threads take part, and blockDim.x is a multiple of 32 ----

template <class Combine>
__device__ __forceinline__ Word block_reduce(Word value, Combine combine) {
  __shared__ Word partials[32];
  for (int distance = 16; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  __syncthreads();                                    // partials of an earlier reduction may still be read
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? partials[threadIdx.x % 32] : 0;
  for (int distance = 16; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}
__device__ __forceinline__ Word block_max(Word value) {
  return block_reduce(value, [](Word a, Word b) { return a > b ? a : b; });
}
__device__ __forceinline__ Word block_sum(Word value) {
  return block_reduce(value, [](Word a, Word b) { return a + b; });
}

__device__ __forceinline__ bool before(const Pick& a, const Pick& b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

__device__ __forceinline__ Pick no_pick() { return {-std::numeric_limits<double>::infinity(), kNoId, 0}; }

__device__ __forceinline__ Pick warp_best(Pick best) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const Pick other = {__shfl_xor_sync(kAllLanes, best.score, distance), __shfl_xor_sync(kAllLanes, best.id, distance), 0};
    if (before(other, best)) best = other;
  }
  return best;
}

__device__ __forceinline__ Pick block_best(Pick best) {
  __shared__ Pick partials[32];
  best = warp_best(best);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = best;
  __syncthreads();
  return warp_best(threadIdx.x % 32 < blockDim.x / 32 ? partials[threadIdx.x % 32] : no_pick());
}

// The best of logit / temperature + noise among the items of the block. for_each(f) calls f(logit, id) for each of a thread's items, none
// of them NaN or -infinity. In two rounds, since logarithms in double precision are dear: the first finds what is worth one.
template <class ForEach>
__device__ __forceinline__ Pick noisy_best(const DeviceSampling& params, const Noise& noise, ForEach&& for_each) {
  const double temperature = params.temperature;
  constexpr float kRounding = 1e-6f;
  float bar = -std::numeric_limits<float>::infinity();
  for_each([&](float logit, int32_t id) {
    const float base = logit / params.temperature;
    bar = fmaxf(bar, base + Noise::least(Noise::likely_value(noise.bits(id))) - kRounding * fabsf(base));
  });
  for (int distance = 16; distance > 0; distance /= 2) bar = fmaxf(bar, __shfl_xor_sync(kAllLanes, bar, distance));
  Pick best = no_pick();
  for_each([&](float logit, int32_t id) {
    const uint64_t bits = noise.bits(id);
    const float base = logit / params.temperature;
    if (base + Noise::most(Noise::likely_value(bits)) + kRounding * fabsf(base) < bar) return;  // false for what is no number
    const Pick found = {static_cast<double>(logit) / temperature + Noise::value(bits), id, 0};
    if (before(found, best)) best = found;
  });
  return block_best(best);
}

// The best key of the sequence on any rank, for all threads of the block.
__device__ __forceinline__ Word best_of_all(const SampleKernels& call, int sequence) {
  const SamplePlan& plan = call.plan;
  Word best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < plan.ranks * plan.parts; i += static_cast<int>(blockDim.x)) {
    const auto* found = place<const Word>(message_of(call, i / plan.parts), plan.best_offset);
    best = max(best, found[int64_t{sequence} * plan.parts + i % plan.parts]);
  }
  return block_max(best);
}

// Probability relative to that of the largest logit, as the CPU's: in double precision for candidates, in single for a vocabulary.
__device__ __forceinline__ double weight(float logit, float largest, float temperature) {
  return logit == largest ? 1.0 : exp((static_cast<double>(logit) - largest) / static_cast<double>(temperature));
}
__device__ __forceinline__ float fast_weight(float logit, float largest, float temperature) {
  return logit == largest ? 1.0f : expf((logit - largest) / temperature);
}
// The same as a fixed-point number, so that sums are exact.
template <class T>
__device__ __forceinline__ Word mass(T weight, int fraction_bits) {
  return static_cast<Word>(weight * static_cast<T>(Word{1} << fraction_bits));
}

}  // namespace heddle::cuda
