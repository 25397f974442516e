// The choice that every rank makes alike from what all of them found: a block for a sequence.
#include "cuda/sample_cut.cuh"
#include "cuda/sample_device.cuh"
#include "cuda/sample_logits.cuh"

namespace heddle::cuda {

namespace {

constexpr int kWideThreads = 512;                     // where a block may have to read a whole vocabulary

// Candidates of every rank. Each of these lists calls body(key) for a thread's items.
struct CandidateList {
  const SampleKernels& call;
  int sequence;

  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    const SamplePlan& plan = call.plan;
    for (int i = static_cast<int>(threadIdx.x); i < plan.ranks * plan.candidates; i += static_cast<int>(blockDim.x)) {
      const auto* keys = place<const Word>(message_of(call, i / plan.candidates), plan.candidates_offset);
      const Word key = keys[int64_t{sequence} * plan.candidates + i % plan.candidates];
      if (key != 0) body(key);
    }
  }
};

struct LikelyList {
  const SampleKernels& call;
  int sequence;

  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    const Word* keys = call.memory.likely + int64_t{sequence} * kListItems;
    const uint32_t count = call.memory.counts[sequence];
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) body(keys[i]);
  }
};

struct WholeVocabulary {
  const SampleKernels& call;
  int sequence;

  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    for_each_logit(call, sequence, 0, 1, [&](float logit, int32_t id) { body(key_of(logit, id)); });
  }
};

// What top-p of `total` is in whole units: what is before a kept item has less.
__device__ Word wanted_mass(float top_p, Word total) {
  return top_p > 0 ? max(static_cast<Word>(ceil(static_cast<double>(top_p) * static_cast<double>(total))), Word{1}) : Word{1};
}

// Top-k, top-p, min-p and noise over a list, as cpu::choose. top_k 0: off. `total`: the mass that top-p is a part of; 0: that of what
// top-k leaves. weigh(logit) gives the mass of an item.
template <class List, class Weigh>
__device__ int32_t choose(const List& list, const DeviceSampling& params, float largest, int32_t top_k, Word total, const Noise& noise,
                          Weigh weigh) {
  Word bound = 1;
  if (top_k > 0) {
    bound = cut(static_cast<Word>(top_k), [&](auto item) { list.for_each([&](Word key) { item(key, Word{1}); }); });
  }
  const auto for_kept = [&](auto body) {
    list.for_each([&](Word key) {
      if (key >= bound) body(key);
    });
  };
  if (params.top_p < 1) {
    if (total == 0) {
      for_kept([&](Word key) { total += weigh(logit_of(key)); });
      total = block_sum(total);
    }
    bound = max(bound, cut(wanted_mass(params.top_p, total), [&](auto item) {
                  for_kept([&](Word key) { item(key, weigh(logit_of(key))); });
                }));
  }
  const double least = fminf(params.min_p, 1.0f);
  const Pick best = noisy_best(params, noise, [&](auto consider) {
    for_kept([&](Word key) {
      const float logit = logit_of(key);
      if (!(least > 0) || !(weight(logit, largest, params.temperature) < least)) consider(logit, id_of(key));
    });
  });
  return best.id == kNoId ? 0 : best.id;
}

__device__ int32_t choose_candidate(const SampleKernels& call, int sequence, const DeviceSampling& params, const Noise& noise) {
  const CandidateList list{call, sequence};
  Word best = 0;
  list.for_each([&](Word key) { best = max(best, key); });
  best = block_max(best);
  if (best == 0) return 0;
  const float largest = logit_of(best);
  return choose(list, params, largest, params.top_k, 0, noise, [&](float logit) {
    return mass(weight(logit, largest, params.temperature), call.plan.fraction_bits);
  });
}

__device__ int32_t choose_from_all(const SampleKernels& call, int sequence, const DeviceSampling& params, const Noise& noise) {
  const Word best = best_of_all(call, sequence);
  if (best == 0) return 0;
  const float largest = logit_of(best);
  const auto weigh = [&](float logit) { return mass(fast_weight(logit, largest, params.temperature), call.plan.fraction_bits); };
  const WholeVocabulary vocabulary{call, sequence};
  if (cuts_to_top_k(call, params)) return choose(vocabulary, params, largest, params.top_k, 0, noise, weigh);
  const Word total = call.memory.totals[sequence];
  if (call.memory.counts[sequence] > kListItems) return choose(vocabulary, params, largest, 0, total, noise, weigh);
  return choose(LikelyList{call, sequence}, params, largest, 0, total, noise, weigh);
}

__device__ int32_t choose_pick(const SampleKernels& call, int sequence) {
  const SamplePlan& plan = call.plan;
  Pick best = no_pick();
  for (int i = static_cast<int>(threadIdx.x); i < plan.ranks * plan.parts; i += static_cast<int>(blockDim.x)) {
    const int rank = i / plan.parts;
    const auto* picks = plan.bounded_picks ? place<const Pick>(call.memory.all_bounded, rank * plan.bounded_bytes)
                                           : place<const Pick>(message_of(call, rank), plan.picks_offset);
    const Pick found = picks[int64_t{sequence} * plan.parts + i % plan.parts];
    if (before(found, best)) best = found;
  }
  best = block_best(best);
  return best.id == kNoId ? 0 : best.id;
}

__global__ void __launch_bounds__(kWideThreads) choose_kernel(SampleKernels call) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const auto sequence = static_cast<int>(blockIdx.x);
  if (sequence >= call.step.counts->sequences) return;
  const DeviceSampling params = call.step.sampling[sequence];
  const Noise noise(call.step, sequence);
  int32_t token = 0;
  switch (method_of(params, call.spec.vocab_size)) {
    case Method::greedy: token = id_of(best_of_all(call, sequence)); break;
    case Method::noise: token = choose_pick(call, sequence); break;
    case Method::top_k: token = choose_candidate(call, sequence, params, noise); break;
    case Method::all: token = choose_from_all(call, sequence, params, noise); break;
  }
  if (threadIdx.x != 0) return;
  call.step.sampled[sequence] = token;
  call.step.last_tokens[call.step.slots[sequence]] = token;
}

}  // namespace

void launch_choose(const Device& device, const SampleKernels& call) {
  launch("sample",
         {.grid = dim3(static_cast<unsigned>(call.plan.sequences)),
          .block = dim3(call.plan.all_logits ? kWideThreads : kSampleThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         choose_kernel, call);
}

}  // namespace heddle::cuda
