#include "cuda/step_state.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/program.h"

namespace heddle::cuda {

namespace {

// Blocks of a sequence that a new state has room for: contexts of 4096 tokens in blocks of 16.
constexpr int64_t kFirstBlocksPerSequence = 256;

// Offsets of the arrays in the block. The block table is behind them, since its rows grow with the contexts, and edits of logits are last.
struct Layout {
  size_t counts, sampling, tokens, positions, sequence_of_token, sequence_starts, slots, edit_starts, block_table;

  explicit Layout(const StepShape& room) {
    const auto token_count = static_cast<size_t>(room.tokens);
    const auto sequence_count = static_cast<size_t>(room.sequences);
    size_t end = 0;
    const auto place = [&end](size_t bytes) { return std::exchange(end, (end + bytes + 15) / 16 * 16); };
    counts = place(sizeof(StepCounts));
    sampling = place(sequence_count * sizeof(DeviceSampling));
    tokens = place(token_count * sizeof(int32_t));
    positions = place(token_count * sizeof(int32_t));
    sequence_of_token = place(token_count * sizeof(int32_t));
    sequence_starts = place((sequence_count + 1) * sizeof(int32_t));
    slots = place(sequence_count * sizeof(int32_t));
    edit_starts = place((sequence_count + 1) * sizeof(int32_t));
    block_table = end;
  }

  // Behind the block table of this step.
  size_t edits(const Step& step) const { return (block_table + step.block_table.size() * sizeof(int32_t) + 15) / 16 * 16; }
};

// A sequence with penalties has a place for the token that its list does not count.
size_t edit_count(const Step& step) {
  const auto extra = std::count_if(step.sampling.begin(), step.sampling.end(), [](const SamplingParams& params) { return params.has_penalties(); });
  return step.edits.size() + static_cast<size_t>(extra);
}

template <class T>
T* at(void* block, size_t offset) {
  return reinterpret_cast<T*>(static_cast<unsigned char*>(block) + offset);
}

// At most `count` values; a program without embed may come without tokens.
void put(void* block, size_t offset, const std::vector<int32_t>& values, size_t count) {
  if (!values.empty()) std::memcpy(at<int32_t>(block, offset), values.data(), std::min(values.size(), count) * sizeof(int32_t));
}

void put_sampling(DeviceSampling* target, const Step& step) {
  for (size_t i = 0; i < step.slots.size(); ++i) {
    const SamplingParams params = step.sampling.empty() ? SamplingParams{} : step.sampling[i];
    target[i] = {params.temperature, params.top_k, params.top_p, params.min_p, params.seed,
                 params.repetition_penalty, params.presence_penalty, params.frequency_penalty, params.answer_start, params.logprobs,
                 params.has_penalties() ? 1 : 0};
  }
}

void put_edits(const Step& step, const StepShape& room, int32_t* starts, DeviceEdit* edits) {
  int32_t end = 0;
  for (size_t i = 0; i < step.slots.size(); ++i) {
    starts[i] = end;
    if (!step.edits.empty()) {
      for (int32_t k = step.edit_starts[i]; k < step.edit_starts[i + 1]; ++k) {
        const LogitEdit& edit = step.edits[static_cast<size_t>(k)];
        edits[end++] = {edit.id, edit.count, edit.bias, 0};
      }
    }
    if (!step.sampling.empty() && step.sampling[i].has_penalties()) edits[end++] = {-1, -1, 0, 0};
  }
  std::fill(starts + step.slots.size(), starts + room.sequences + 1, end);
}

void put_sequences(const Step& step, const StepShape& room, int32_t* sequence_of_token, int32_t* sequence_starts) {
  const int64_t sequences = step.sequence_count();
  for (int64_t i = 0; i < sequences; ++i) {
    const auto first = step.sequence_starts[static_cast<size_t>(i)];
    const auto end = step.sequence_starts[static_cast<size_t>(i) + 1];
    std::fill(sequence_of_token + first, sequence_of_token + end, static_cast<int32_t>(i));
  }
  std::copy(step.sequence_starts.begin(), step.sequence_starts.end(), sequence_starts);
  std::fill(sequence_starts + sequences + 1, sequence_starts + room.sequences + 1, static_cast<int32_t>(step.token_count()));
}

void pack(const Step& step, const StepShape& room, const Layout& layout, void* block) {
  std::memset(block, 0, layout.block_table);
  *at<StepCounts>(block, layout.counts) = {static_cast<int32_t>(step.token_count()), static_cast<int32_t>(step.sequence_count()),
                                           static_cast<int32_t>(step.blocks_per_sequence()),
                                           static_cast<int32_t>(layout.edits(step) / sizeof(DeviceEdit))};
  put_sampling(at<DeviceSampling>(block, layout.sampling), step);
  put(block, layout.tokens, step.tokens, step.positions.size());
  put(block, layout.positions, step.positions, step.positions.size());
  put_sequences(step, room, at<int32_t>(block, layout.sequence_of_token), at<int32_t>(block, layout.sequence_starts));
  put(block, layout.slots, step.slots, step.slots.size());
  put(block, layout.block_table, step.block_table, step.block_table.size());
  put_edits(step, room, at<int32_t>(block, layout.edit_starts), at<DeviceEdit>(block, layout.edits(step)));
}

void expect_room(const Step& step, const StepShape& room) {
  if (step.token_count() <= room.tokens && step.sequence_count() <= room.sequences) return;
  throw Error(ErrorCode::invalid_argument, "StepState: expected a step of at most " + std::to_string(room.tokens) + " tokens and " +
                                               std::to_string(room.sequences) + " sequences, got " + std::to_string(step.token_count()) +
                                               " and " + std::to_string(step.sequence_count()));
}

}  // namespace

SlotTokens::SlotTokens(const Device& device)
    : last_tokens_(device.allocate(kMaxSlots * sizeof(int32_t), "sampled tokens")), sampled_(static_cast<size_t>(kMaxSlots), false) {
  cuda::check(cudaMemsetAsync(last_tokens_.data(), 0, last_tokens_.bytes(), device.stream()), "sampled tokens");
}

void SlotTokens::check(const Step& step) const {
  for (const int32_t token : step.tokens) {
    if (token >= 0) continue;
    const int32_t slot = -1 - token;
    if (slot < kMaxSlots && sampled_[static_cast<size_t>(slot)]) continue;
    throw Error(ErrorCode::invalid_argument,
                "step: expected a token sampled in slot " + std::to_string(slot) + ", got none so far");
  }
}

void SlotTokens::mark_sampled(const Step& step) {
  for (const int32_t slot : step.slots) sampled_[static_cast<size_t>(slot)] = true;
}

StepShape shape_of(const Step& step) {
  StepShape shape = {step.token_count(), step.sequence_count(), 0, 0, 0};
  for (size_t i = 0; i < step.slots.size(); ++i) {
    const int32_t end = step.sequence_starts[i + 1];
    const int64_t part = end - step.sequence_starts[i];
    const int64_t context = int64_t{step.positions[static_cast<size_t>(end) - 1]} + 1;
    shape.longest_part = std::max(shape.longest_part, part);
    shape.longest_context = std::max(shape.longest_context, context);
    if (part > 1) shape.prompt_keys += context;
  }
  return shape;
}

StepState::StepState(const Device& device, SlotTokens& slots, int64_t max_tokens, int64_t max_sequences)
    : device_(device), slots_(slots) {
  for (Entry& entry : ring_) entry.copied = make_event();
  const Layout layout({max_tokens, max_sequences, 0, 0, 0});
  reserve(layout.block_table + static_cast<size_t>(max_sequences * kFirstBlocksPerSequence) * sizeof(int32_t));
  reserve_results(max_sequences);
  epoch_ = 0;
}

void StepState::expect_no_capture() const {
  if (device_.capturing()) throw Error(ErrorCode::device_failed, "StepState: expected room for the step, got too little during a capture");
}

void StepState::reserve_results(int64_t sequences) {
  const size_t bytes = static_cast<size_t>(sequences) * sizeof(int32_t);
  if (bytes <= sampled_.bytes()) return;
  expect_no_capture();
  Buffer grown = device_.allocate(std::max(bytes, 2 * sampled_.bytes()), "results of sampling");
  std::swap(sampled_, grown);
  outgrown_.push_back(std::move(grown));
  Buffer logprobs = device_.allocate(sampled_.bytes() / sizeof(int32_t) * (1 + kMaxLogprobs) * sizeof(TokenLogprob), "log-probabilities");
  std::swap(logprobs_, logprobs);
  outgrown_.push_back(std::move(logprobs));
  ++epoch_;
}

void StepState::reserve(size_t bytes) {
  if (bytes <= block_.bytes()) return;
  expect_no_capture();
  const size_t wanted = std::max(bytes, 2 * block_.bytes());
  Buffer grown = device_.allocate(wanted, "a step's arrays");
  std::array<Buffer, kRing> memory;
  for (Buffer& buffer : memory) buffer = pinned_memory(wanted);
  std::swap(block_, grown);
  outgrown_.push_back(std::move(grown));
  for (size_t i = 0; i < kRing; ++i) {
    std::swap(ring_[i].memory, memory[i]);
    outgrown_.push_back(std::move(memory[i]));
  }
  ++epoch_;
}

// The entry used longest ago; its transfer ended long before, unless more steps are under way than the ring has entries.
StepState::Entry& StepState::next_entry() {
  Entry& entry = ring_[turn_++ % kRing];
  if (entry.used) cuda::check(cudaEventSynchronize(entry.copied.get()), "StepState");
  return entry;
}

DeviceStep StepState::submit(const Step& step, const StepShape& room) {
  expect_room(step, room);
  const Layout layout(room);
  const size_t bytes = layout.edits(step) + edit_count(step) * sizeof(DeviceEdit);
  reserve(bytes);
  reserve_results(room.sequences);
  Entry& entry = next_entry();
  pack(step, room, layout, entry.memory.data());
  cuda::check(cudaMemcpyAsync(block_.data(), entry.memory.data(), bytes, cudaMemcpyHostToDevice, device_.stream()), "StepState");
  cuda::check(cudaEventRecord(entry.copied.get(), device_.stream()), "StepState");
  entry.used = true;
  return device_step(room);
}

DeviceStep StepState::device_step(const StepShape& room) const {
  const Layout layout(room);
  void* block = block_.data();
  DeviceStep step;
  step.counts = at<StepCounts>(block, layout.counts);
  step.tokens = at<int32_t>(block, layout.tokens);
  step.positions = at<int32_t>(block, layout.positions);
  step.sequence_of_token = at<int32_t>(block, layout.sequence_of_token);
  step.sequence_starts = at<int32_t>(block, layout.sequence_starts);
  step.slots = at<int32_t>(block, layout.slots);
  step.block_table = at<int32_t>(block, layout.block_table);
  step.sampling = at<DeviceSampling>(block, layout.sampling);
  step.edit_starts = at<int32_t>(block, layout.edit_starts);
  step.edit_base = at<DeviceEdit>(block, 0);
  step.logprobs = static_cast<TokenLogprob*>(logprobs_.data());
  step.last_tokens = slots_.data();
  step.sampled = static_cast<int32_t*>(sampled_.data());
  return step;
}

}  // namespace heddle::cuda
