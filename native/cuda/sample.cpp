#include "cuda/sample.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "cuda/sample_edits.h"
#include "cuda/sample_plan.h"

namespace heddle::cuda {

namespace {

constexpr int64_t kGatheredBytes = 64 * 1024;         // of candidates; more are cut down on each rank first

size_t up_to_16(size_t bytes) { return (bytes + 15) / 16 * 16; }

// Candidates of a sequence in the message: further rounds cost a launch each, and shorten what is gathered and read at the end.
int64_t gathered_candidates(const SamplePlan& plan) {
  int64_t count = kept_of(plan.most_columns, plan.kept);
  const auto too_many = [&] {
    const bool long_message = plan.ranks > 1 && count * plan.sequences * static_cast<int64_t>(sizeof(Word)) > kGatheredBytes;
    return count > plan.kept && (long_message || count * plan.ranks > kListItems);
  };
  while (too_many()) count = kept_of(count, plan.kept);
  return count;
}

void place_message(SamplePlan& plan) {
  const auto found = static_cast<size_t>(plan.sequences) * static_cast<size_t>(plan.parts);
  plan.best_offset = sizeof(SampleHeader);
  plan.picks_offset = up_to_16(plan.best_offset + (plan.best ? found * sizeof(Word) : 0));
  plan.candidates_offset = plan.picks_offset + (plan.picks ? found * sizeof(Pick) : 0);
  plan.bytes = up_to_16(plan.candidates_offset + static_cast<size_t>(plan.sequences) * static_cast<size_t>(plan.candidates) * sizeof(Word));
  plan.bounded_bytes = plan.bounded_picks ? found * sizeof(Pick) : 0;
}

// Hands out the parts of one block of memory; the first time round, with no block, it adds up what is needed.
class Places {
 public:
  explicit Places(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}
  template <class T>
  T* take(size_t count) {
    auto* place = memory_ ? reinterpret_cast<T*>(memory_ + bytes_) : nullptr;
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return place;
  }
  size_t bytes() const { return bytes_; }

 private:
  unsigned char* memory_;
  size_t bytes_ = 0;
};

// A group of one reads what it wrote; else messages of all ranks are behind one another.
template <class T>
T* take_gathered(Places& places, const SamplePlan& plan, T* mine, size_t count) {
  return plan.ranks > 1 ? places.take<T>(static_cast<size_t>(plan.ranks) * count) : mine;
}

SampleMemory place_memory(Places& places, const SamplePlan& plan, const View& logits) {
  const auto sequences = static_cast<size_t>(plan.sequences);
  SampleMemory memory;
  memory.message = places.take<unsigned char>(plan.bytes);
  memory.messages = take_gathered(places, plan, memory.message, plan.bytes);
  memory.bounded = places.take<unsigned char>(plan.bounded_bytes);
  memory.all_bounded = take_gathered(places, plan, memory.bounded, plan.bounded_bytes);
  if (plan.kept > 0) {
    const int64_t first = kept_of(plan.most_columns, plan.kept);
    memory.lists[0] = places.take<Word>(sequences * static_cast<size_t>(first));
    memory.lists[1] = places.take<Word>(sequences * static_cast<size_t>(kept_of(first, plan.kept)));
  }
  if (!plan.all_logits) return memory;
  const size_t row_elements = sequences * static_cast<size_t>(plan.most_columns);
  memory.padded = logits.width == plan.most_columns ? logits.floats() : places.take<float>(row_elements);
  memory.logits = take_gathered(places, plan, memory.padded, row_elements);
  memory.totals = places.take<Word>(sequences);
  memory.counts = places.take<uint32_t>(sequences);
  memory.likely = places.take<Word>(sequences * kListItems);
  return memory;
}

SampleKernels prepare(const Device& device, const SampleCall& call, int ranks) {
  SampleKernels kernels = {call.step, call.spec, call.logits.floats(), call.logits.width, plan_sample(call, ranks), {}};
  Places needed(nullptr);
  place_memory(needed, kernels.plan, call.logits);
  Places places(device.scratch(Scratch::sample, needed.bytes()));
  kernels.memory = place_memory(places, kernels.plan, call.logits);
  return kernels;
}

// A method per sequence, as cpu/sample.cpp chooses it.
void add_method(SampleMethods& methods, const SamplingParams& params, int64_t vocab_size) {
  if (!(params.temperature > 0)) {
    methods.greedy = true;
    return;
  }
  const bool top_k = params.top_k > 0 && params.top_k < vocab_size;
  if (top_k && params.top_k <= kMaxExchangedCandidates) {
    methods.candidates = true;
    const auto kept = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(params.top_k)));
    methods.most_candidates = std::max(methods.most_candidates, kept);
  } else if (top_k || params.top_p < 1) {
    methods.all_logits = true;
  } else {
    methods.noise = true;
    methods.min_p = methods.min_p || params.min_p > 0;
  }
}

}  // namespace

SampleMethods sample_methods(const Step& step, int64_t vocab_size) {
  SampleMethods methods;
  methods.greedy = step.sampling.empty();
  methods.edits = !step.edits.empty();
  methods.logprobs = asks_for_logprobs(step);
  for (const SamplingParams& params : step.sampling) {
    add_method(methods, params, vocab_size);
    methods.edits = methods.edits || params.has_penalties();
  }
  return methods;
}

int64_t most_columns(int64_t columns, Communicator& communicator) {
  std::vector<int64_t> all(static_cast<size_t>(communicator.size()));
  communicator.exchange(&columns, sizeof columns, all.data());
  return *std::max_element(all.begin(), all.end());
}

SamplePlan plan_sample(const SampleCall& call, int ranks) {
  constexpr int64_t kBlocks = 512;                    // of all sequences together, a few for each multiprocessor
  constexpr int64_t kLeastColumns = 2048;             // that are worth a block
  SamplePlan plan;
  plan.sequences = static_cast<int32_t>(call.shape.sequences);
  plan.ranks = ranks;
  plan.most_columns = call.most_columns > 0 ? call.most_columns : call.logits.width;
  const int64_t useful = (plan.most_columns + kLeastColumns - 1) / kLeastColumns;
  plan.parts = static_cast<int32_t>(std::max<int64_t>(1, std::min(kBlocks / std::max(plan.sequences, 1), useful)));
  const SampleMethods& methods = call.methods;
  plan.all_logits = methods.all_logits;
  plan.best = methods.greedy || methods.min_p || methods.all_logits;
  plan.bounded_picks = methods.noise && methods.min_p;
  plan.picks = methods.noise && !methods.min_p;
  plan.kept = methods.candidates ? methods.most_candidates : 0;
  plan.candidates = plan.kept > 0 ? static_cast<int32_t>(gathered_candidates(plan)) : 0;
  plan.fraction_bits = 62 - static_cast<int32_t>(std::bit_width(static_cast<uint64_t>(plan.ranks * plan.most_columns)));
  place_message(plan);
  return plan;
}

void sample(const Device& device, const SampleCall& call, DeviceCommunicator& communicator) {
  const SampleKernels kernels = prepare(device, call, communicator.size());
  const SamplePlan& plan = kernels.plan;
  const SampleMemory& memory = kernels.memory;
  const auto gather = [&](const void* mine, size_t bytes, void* all) {
    if (plan.ranks > 1) communicator.gather(mine, bytes, all);
  };
  if (call.methods.edits) edit_logits(device, call);
  if (plan.best) launch_find_best(device, kernels);
  if (plan.picks) launch_find_picks(device, kernels);
  if (plan.kept > 0) launch_find_candidates(device, kernels);
  gather(memory.message, plan.bytes, memory.messages);
  if (plan.bounded_picks) {
    launch_find_picks(device, kernels);
    gather(memory.bounded, plan.bounded_bytes, memory.all_bounded);
  }
  if (plan.all_logits) {
    if (memory.padded != call.logits.data) launch_pad_logits(device, kernels);
    gather(memory.padded, static_cast<size_t>(plan.sequences) * static_cast<size_t>(plan.most_columns) * sizeof(float), memory.logits);
    launch_find_likely(device, kernels);
  }
  launch_choose(device, kernels);
  if (call.methods.edits) restore_logits(device, call);
}

}  // namespace heddle::cuda
