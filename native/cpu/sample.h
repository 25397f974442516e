// One token per sequence, the same on every rank. Rule: what ranks exchange depends on the sampling parameters alone,
// so that every rank takes the same branch for every sequence and the exchanges match.
#pragma once
#include <cstdint>

#include "core/backend.h"

namespace heddle::cpu {

// Up to this top-k ranks exchange their best candidates; beyond it, and for top-p without top-k, all logits.
constexpr int32_t kMaxExchangedCandidates = 1024;

// logits: the columns of this rank, one row for each sequence. Writes step.sequence_count tokens.
void sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, int32_t* tokens);

}  // namespace heddle::cpu
