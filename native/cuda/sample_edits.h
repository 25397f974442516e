// Bias and penalties on the logits of a step: see LogitEdit in core/message.h. What is changed is kept beside the edits and restored.
#pragma once
#include "cuda/sample.h"

namespace heddle::cuda {

// Where call.methods.edits.
void edit_logits(const Device& device, const SampleCall& call);
void restore_logits(const Device& device, const SampleCall& call);

}  // namespace heddle::cuda
