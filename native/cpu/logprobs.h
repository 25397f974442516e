// Log-probabilities of the tokens that were chosen and of the likeliest ones, for the sequences that ask: see TokenLogprob.
// Rule: a rank reads its own columns alone; what ranks exchange is a few numbers for each sequence.
#pragma once
#include <vector>

#include "core/backend.h"

namespace heddle::cpu {

// Appends to `found`, the same on every rank: for each sequence that asks the chosen token, then as many as it asks for.
void logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, const int32_t* tokens,
              std::vector<TokenLogprob>& found);

}  // namespace heddle::cpu
