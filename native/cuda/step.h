// A step as kernels see it, and its shape as the host knows it. The arrays lie at fixed addresses from step to step, and counts are
// read on the device, so that one captured graph serves every step of its bucket.
#pragma once
#include <cstdint>

#include "core/message.h"

namespace heddle::cuda {

// As SamplingParams, for the device.
struct DeviceSampling {
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
  uint64_t seed;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t answer_start;
  int32_t logprobs;
  int32_t penalties;                                  // 1: some are on; 0: none
};

// As LogitEdit, with room for the logit that it changes.
struct alignas(16) DeviceEdit {
  int32_t id;
  int32_t count;
  float bias;
  float original;
};

struct StepCounts {
  int32_t tokens;
  int32_t sequences;
  int32_t blocks_per_sequence;                        // row length of the block table
  int32_t first_edit;                                 // where the edits begin in the block that begins with this, in DeviceEdits
};

// All pointers are device memory. Rows at or beyond `counts` are padding of a bucket: a kernel that reads these arrays by row or
// sequence skips them (whatever is in such rows of an activation is garbage that no real row reads).
struct DeviceStep {
  const StepCounts* counts = nullptr;
  const int32_t* tokens = nullptr;                    // [tokens] -1 - slot: the token last sampled in that slot
  const int32_t* positions = nullptr;                 // [tokens]
  const int32_t* sequence_of_token = nullptr;         // [tokens]
  const int32_t* sequence_starts = nullptr;           // [sequences + 1]
  const int32_t* slots = nullptr;                     // [sequences]
  const int32_t* block_table = nullptr;               // [sequences, blocks_per_sequence]
  const DeviceSampling* sampling = nullptr;           // [sequences]
  const int32_t* edit_starts = nullptr;               // [sequences + 1] a sequence with penalties has one more, last, for the kernel
  DeviceEdit* edit_base = nullptr;                    // edits lie behind what grows, so the counts say where
  int32_t* last_tokens = nullptr;                     // [kMaxSlots] by slot: read by embed, written by sample
  int32_t* sampled = nullptr;                         // [sequences] result of sample
  TokenLogprob* logprobs = nullptr;                   // [sequences, 1 + kMaxLogprobs] result of logprobs
};

// What launches are sized by. In a graph the numbers are those of the bucket: upper bounds of every step that it serves.
struct StepShape {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t longest_part = 0;                           // most tokens that one sequence has in the step; 1: all decode
  int64_t longest_context = 0;                        // most keys that a token sees; in a graph: of the whole cache
  int64_t prompt_keys = 0;                            // of all sequences of more than one token; 0 in a graph
};

}  // namespace heddle::cuda
