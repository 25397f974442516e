// Bias and penalties on the logits of a step, on this rank's columns: see LogitEdit in core/message.h.
// Rule: what is changed is restored at the end, so that whoever reads the logits later finds those of the model.
#pragma once
#include <vector>

#include "core/backend.h"

namespace heddle::cpu {

class LogitEdits {
 public:
  // Until this object goes.
  LogitEdits(const StepView& step, View logits, const SampleSpec& spec);
  ~LogitEdits();
  LogitEdits(const LogitEdits&) = delete;
  LogitEdits& operator=(const LogitEdits&) = delete;

 private:
  struct Original {
    float* place;
    float value;
  };

  void edit_sequence(const StepView& step, View logits, const SampleSpec& spec, int64_t sequence);

  std::vector<Original> originals_;
};

}  // namespace heddle::cpu
