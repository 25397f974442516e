// Log-probabilities of the tokens that a step chose and of the likeliest ones, on the device, as cpu/logprobs.h tells them.
#pragma once
#include <vector>

#include "cuda/sample.h"

namespace heddle::cuda {

// After `sample` of the same call, where call.methods.logprobs. Writes step.logprobs: for each sequence that asks a row of
// 1 + kMaxLogprobs, of which 1 + the number it asks for are filled.
void logprobs(const Device& device, const SampleCall& call, DeviceCommunicator& communicator);

// Those that the step asks for, from such rows on the host, in the order of RunResult.
void append_logprobs(const std::vector<SamplingParams>& sampling, const TokenLogprob* rows, std::vector<TokenLogprob>& found);

}  // namespace heddle::cuda
