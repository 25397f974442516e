// One token per sequence, drawn on the device, the same on every rank and the same choice as the CPU's (cpu/sample.h) up to the last
// bits of the logits. No logits reach the host.
#pragma once
#include "core/backend.h"
#include "cuda/device.h"
#include "cuda/device_communicator.h"
#include "cuda/step.h"

namespace heddle::cuda {

// Which kernels a step needs: the union over its sequences. Part of the key of a captured graph.
struct SampleMethods {
  bool greedy = false;                                // temperature 0: best logit of each rank
  bool noise = false;                                 // no top-k, no top-p: best noisy score
  bool min_p = false;                                 // … some of them with min-p, for which the largest logit is needed first
  bool candidates = false;                            // top-k of at most kMaxExchangedCandidates
  bool all_logits = false;                            // top-p without top-k, or a larger top-k
  bool edits = false;                                 // bias or penalties
  bool logprobs = false;
  int32_t most_candidates = 0;                        // largest top-k among `candidates`, rounded up to a power of two
  bool operator==(const SampleMethods&) const = default;
};

SampleMethods sample_methods(const Step& step, int64_t vocab_size);   // from step.sampling; empty: greedy

// Up to this top-k ranks exchange their best candidates; beyond it, and for top-p without top-k, all logits. As the CPU.
constexpr int32_t kMaxExchangedCandidates = 1024;

struct SampleCall {
  DeviceStep step;
  StepShape shape;
  View logits;                                        // [sequences, columns of this rank] float32
  SampleSpec spec;
  SampleMethods methods;
  int64_t most_columns = 0;                           // of any rank's logits, alike on every rank; 0: every rank has as many
};

// The largest of the ranks' widths. Collective, on the host.
int64_t most_columns(int64_t columns, Communicator& communicator);

// Writes step.sampled and step.last_tokens of the slots. Kernels read each sequence's parameters on the device.
void sample(const Device& device, const SampleCall& call, DeviceCommunicator& communicator);

}  // namespace heddle::cuda
