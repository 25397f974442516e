#include "cpu/step_state.h"

#include <string>

#include "core/error.h"

namespace heddle::cpu {

void StepState::resolve_tokens(const std::vector<int32_t>& tokens) {
  tokens_ = tokens;
  for (int32_t& token : tokens_) {
    if (token >= 0) continue;
    const int32_t slot = -1 - token;
    const auto sampled = last_tokens_.find(slot);
    if (sampled == last_tokens_.end()) {
      throw Error(ErrorCode::invalid_argument,
                  "step: expected a token sampled in slot " + std::to_string(slot) + ", got none so far");
    }
    token = sampled->second;
  }
}

StepView StepState::begin(const Step& step) {
  resolve_tokens(step.tokens);
  positions_ = step.positions;
  sequence_starts_ = step.sequence_starts;
  slots_ = step.slots;
  block_table_ = step.block_table;
  sampling_ = step.sampling;
  sampling_.resize(slots_.size());  // none given: greedy
  edit_starts_ = step.edit_starts;
  edits_ = step.edits;
  const bool edits = !edits_.empty();
  return {step.token_count(), step.sequence_count(), step.blocks_per_sequence(),
          tokens_.data(),     positions_.data(),     sequence_starts_.data(),
          slots_.data(),      block_table_.data(),   sampling_.data(),
          edits ? edit_starts_.data() : nullptr, edits ? edits_.data() : nullptr};
}

}  // namespace heddle::cpu
