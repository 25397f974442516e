// A step on the device: its arrays in one block that one transfer fills, and the token last sampled in every slot.
// Rule: where an array lies follows from the room that the step is given, so a graph captured for that room serves every step
// that fits, and a decode step moves a few hundred bytes however long a prefill may be.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "core/message.h"
#include "cuda/device.h"
#include "cuda/step.h"

namespace heddle::cuda {

// The token last sampled in every slot of one rank, shared by all of its programs: one may sample, another read.
class SlotTokens {
 public:
  explicit SlotTokens(const Device& device);

  int32_t* data() const { return static_cast<int32_t*>(last_tokens_.data()); }  // device, [kMaxSlots]
  // Throws invalid_argument where the step names a slot without a token. Nothing was submitted then, on any rank alike.
  void check(const Step& step) const;
  // To be called once the sampling of `step` is submitted.
  void mark_sampled(const Step& step);

 private:
  Buffer last_tokens_;
  std::vector<bool> sampled_;                         // [kMaxSlots]
};

// What launches of this step are sized by.
StepShape shape_of(const Step& step);

// One per program, so that another program's growth never moves what its graphs read.
class StepState {
 public:
  // Makes room for steps of that size and common contexts; a step that needs more makes it grow.
  StepState(const Device& device, SlotTokens& slots, int64_t max_tokens, int64_t max_sequences);

  // Submits the step's arrays to the device's stream and gives their places. `room` is the step's shape or that of its bucket: its
  // tokens and sequences are at least the step's. Rows that the step leaves are zero; its sequences there are empty. A later submit
  // may follow before the work on this one is done. Throws device_failed where the block must grow while a graph is captured.
  DeviceStep submit(const Step& step, const StepShape& room);

  // The same places, without a step.
  DeviceStep device_step(const StepShape& room) const;

  // Advances when the block moves: graphs captured before hold stale addresses.
  uint64_t epoch() const { return epoch_; }

  SlotTokens& slots() const { return slots_; }

 private:
  static constexpr size_t kRing = 4;
  struct Entry {
    Buffer memory;                                    // page-locked
    Event copied;                                     // its last transfer has ended
    bool used = false;
  };

  void expect_no_capture() const;
  void reserve(size_t bytes);
  void reserve_results(int64_t sequences);
  Entry& next_entry();

  const Device& device_;
  SlotTokens& slots_;
  Buffer block_;                                      // device
  Buffer sampled_;                                    // device, results of sample
  Buffer logprobs_;                                   // device, results of logprobs
  std::array<Entry, kRing> ring_;
  size_t turn_ = 0;
  std::vector<Buffer> outgrown_;                      // kept: freeing waits for the GPU, where peers may be waiting for this rank
  uint64_t epoch_ = 0;
};

}  // namespace heddle::cuda
