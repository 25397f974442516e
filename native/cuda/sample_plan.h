// The messages and lists of sampling, as sizes and places: plain data that host and kernels share.
// Rule: everything follows from the shape, the methods, the size of the group and the most columns of a rank, which all ranks know alike.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>

#include "cuda/sample.h"

namespace heddle::cuda {

using Word = unsigned long long;                      // the type of 64-bit atomics

constexpr int32_t kNoId = std::numeric_limits<int32_t>::max();
constexpr int kSampleThreads = 256;
constexpr int kSelectItems = 4096;                    // keys that a block of select_best holds: 16 a thread
constexpr int kListItems = 16384;                     // that choose reads as a list; longer ones are cut down or read as logits

// A noisy score in a message.
struct Pick {
  double score;
  int32_t id;
  int32_t padding;
};

// First in a message: whose columns it is about.
struct SampleHeader {
  int64_t first_id;
  int32_t columns;                                    // padding left out
  int32_t padding;
};

// What a rank found, as it is gathered: header | best keys | picks | candidates. Lists that no method needs are empty.
struct SamplePlan {
  int32_t sequences = 0;
  int32_t ranks = 1;
  int64_t most_columns = 0;                           // of a rank
  int32_t parts = 0;                                  // blocks that share a row of logits, and best keys and picks of each
  int32_t kept = 0;                                   // candidates that a block of select_best keeps
  int32_t candidates = 0;                             // of a sequence in the message
  bool best = false;
  bool picks = false;                                 // in the first message; with min-p they are a second one
  bool bounded_picks = false;
  bool all_logits = false;
  size_t best_offset = 0;
  size_t picks_offset = 0;
  size_t candidates_offset = 0;
  size_t bytes = 0;                                   // of a message, a multiple of 16
  size_t bounded_bytes = 0;                           // of the second message: picks alone
  int32_t fraction_bits = 0;                          // of probability masses, so that a whole vocabulary's fits a Word
};

// What blocks of kSelectItems keep of `items`, `kept` each.
inline int64_t kept_of(int64_t items, int32_t kept) { return (items + kSelectItems - 1) / kSelectItems * kept; }

SamplePlan plan_sample(const SampleCall& call, int ranks);

// Where things lie in the scratch memory of sampling.
struct SampleMemory {
  unsigned char* message = nullptr;                   // this rank's
  unsigned char* messages = nullptr;                  // of all ranks
  unsigned char* bounded = nullptr;                   // this rank's second message
  unsigned char* all_bounded = nullptr;
  Word* lists[2] = {};                                // [sequences, …] candidates between rounds of select_best
  float* padded = nullptr;                            // [sequences, most_columns]
  float* logits = nullptr;                            // [ranks, sequences, most_columns]
  Word* totals = nullptr;                             // [sequences] mass of the vocabulary
  uint32_t* counts = nullptr;                         // [sequences] keys in `likely`, or more than it holds
  Word* likely = nullptr;                             // [sequences, kListItems] what may be in a nucleus
};

// What the kernels are given. Blocks of sequences beyond the step's do nothing.
struct SampleKernels {
  DeviceStep step;
  SampleSpec spec;
  const float* logits;                                // [sequences, width] of this rank
  int64_t width;
  SamplePlan plan;
  SampleMemory memory;
};

void launch_find_best(const Device& device, const SampleKernels& call);
void launch_find_picks(const Device& device, const SampleKernels& call);
// Leaves plan.candidates for each sequence in the message.
void launch_find_candidates(const Device& device, const SampleKernels& call);
void launch_pad_logits(const Device& device, const SampleKernels& call);
void launch_find_likely(const Device& device, const SampleKernels& call);
void launch_choose(const Device& device, const SampleKernels& call);

}  // namespace heddle::cuda
