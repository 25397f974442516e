#include "cpu/logit_edits.h"

#include <algorithm>

namespace heddle::cpu {

namespace {

// As RepetitionPenaltyLogitsProcessor of transformers has it, and presence_penalty and frequency_penalty of OpenAI.
float edited(float logit, const LogitEdit& edit, const SamplingParams& params) {
  const float biased = logit + edit.bias;
  if (edit.count < 0) return biased;
  const float repeated = biased < 0 ? biased * params.repetition_penalty : biased / params.repetition_penalty;
  if (edit.count == 0) return repeated;
  return repeated - (params.presence_penalty + params.frequency_penalty * static_cast<float>(edit.count));
}

constexpr int32_t kNone = -1;

// The token that the step's list does not count yet.
int32_t uncounted_token(const StepView& step, int64_t sequence) {
  const SamplingParams& params = step.sampling[sequence];
  if (!params.has_penalties()) return kNone;
  const int32_t last = step.sequence_starts[sequence + 1] - 1;
  return step.positions[last] >= params.answer_start ? step.tokens[last] : kNone;
}

}  // namespace

LogitEdits::LogitEdits(const StepView& step, View logits, const SampleSpec& spec) {
  for (int64_t i = 0; i < step.sequence_count; ++i) edit_sequence(step, logits, spec, i);
}

void LogitEdits::edit_sequence(const StepView& step, View logits, const SampleSpec& spec, int64_t sequence) {
  const SamplingParams& params = step.sampling[sequence];
  const int64_t columns = std::clamp<int64_t>(spec.vocab_size - spec.first_id, 0, logits.width);
  const auto apply = [&](const LogitEdit& edit) {
    const int64_t column = edit.id - spec.first_id;
    if (column < 0 || column >= columns) return;
    float* place = logits.floats() + sequence * logits.width + column;
    originals_.push_back({place, *place});
    *place = edited(*place, edit, params);
  };
  int32_t uncounted = uncounted_token(step, sequence);
  if (step.edit_starts) {
    for (int32_t i = step.edit_starts[sequence]; i < step.edit_starts[sequence + 1]; ++i) {
      LogitEdit edit = step.edits[i];
      if (edit.id == uncounted) {
        edit.count = std::max(edit.count, 0) + 1;
        uncounted = kNone;
      }
      apply(edit);
    }
  }
  if (uncounted != kNone) apply({uncounted, 1, 0});
}

LogitEdits::~LogitEdits() {
  for (auto original = originals_.rbegin(); original != originals_.rend(); ++original) *original->place = original->value;
}

}  // namespace heddle::cpu
