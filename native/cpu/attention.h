// Attention over the paged KV cache: normalise, rotate, append, attend. Sequences of a step are independent.
#pragma once
#include <vector>

#include "core/backend.h"
#include "cpu/rotary.h"

namespace heddle::cpu {

// Working memory of one rank, kept between calls so that a step allocates nothing once it is warm.
struct AttentionScratch {
  std::vector<float> queries;                         // [rows, paddedDim] of one query block
  std::vector<float> outputs;                         // [rows, paddedDim] sums weighted by exp(score - max)
  std::vector<float> scores;                          // [rows, tile keys]
  std::vector<float> keys;                            // [paddedDim, tile keys]: keys of a tile, transposed
  std::vector<float> values;                          // [tile keys, paddedDim]
  std::vector<float> maxima;                          // [rows] largest score so far
  std::vector<float> sums;                            // [rows] sum of exp(score - max) so far
  std::vector<float> head;                            // [headDim] one key being prepared
  std::vector<std::vector<int64_t>> heads_of_kv;      // query heads that read each KV head
};

struct AttentionArgs {
  const StepView& step;
  View qkv;                                           // [tokens, (headCount + 2 * kvHeadCount) * headDim]
  const AttentionTensors& tensors;
  const AttentionSpec& spec;
  View y;                                             // [tokens, headCount * headDim]
  // Nothing follows from how many query heads this rank has for a KV head: where a group has more ranks than KV heads, it has some of them.
  bool reproducible = false;
};

void attention(const AttentionArgs& args, RotaryCache& rotary, AttentionScratch& scratch);

}  // namespace heddle::cpu
