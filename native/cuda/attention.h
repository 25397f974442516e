// Attention over the paged KV cache on one rank: normalise, rotate, append, attend; sequences of a step are independent.
#pragma once
#include "core/backend.h"
#include "cuda/device.h"
#include "cuda/step.h"

namespace heddle::cuda {

struct AttentionCall {
  DeviceStep step;
  StepShape shape;
  View qkv;                                           // [tokens, (headCount + 2 * kvHeadCount) * headDim]
  AttentionTensors tensors;
  const AttentionSpec* spec = nullptr;
  View y;                                             // [tokens, headCount * headDim]
};

// Decode (shape.longest_part 1): split-KV kernels, whose launches depend on the shape alone, never on contexts. Else: append, then the
// library's fused attention where it is there and can do it, else own tensor-core or plain kernels. Throws invalid_argument where a
// rank has more than 256 query heads or headDim is above 256; unavailable never.
void attention(const Device& device, const AttentionCall& call);

}  // namespace heddle::cuda
