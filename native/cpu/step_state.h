// What a rank keeps of a step, and the token last sampled in every slot.
// Rule: the arrays of a StepView live here until the next begin.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/backend.h"

namespace heddle::cpu {

class StepState {
 public:
  // Copies the step's arrays and resolves "-1 - slot"; throws invalid_argument where the slot has no sampled token yet.
  StepView begin(const Step& step);
  void set_last_token(int32_t slot, int32_t token) { last_tokens_[slot] = token; }

 private:
  void resolve_tokens(const std::vector<int32_t>& tokens);

  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> sequence_starts_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> block_table_;
  std::vector<SamplingParams> sampling_;
  std::vector<int32_t> edit_starts_;
  std::vector<LogitEdit> edits_;
  std::unordered_map<int32_t, int32_t> last_tokens_;  // by slot
};

}  // namespace heddle::cpu
