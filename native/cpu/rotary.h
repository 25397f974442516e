// Cosines and sines of the rotary embedding, computed once per step and frequency tensor and shared by all layers.
#pragma once
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/backend.h"

namespace heddle::cpu {

// [tokens, ropeDim / 2] each, already times ropeScale; null without rotary embedding.
struct RotaryTable {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  int64_t half = 0;                                   // ropeDim / 2
};

class RotaryCache {
 public:
  void clear() { tables_.clear(); }
  RotaryTable table(const StepView& step, const Tensor* inverse_frequencies, const AttentionSpec& spec);

 private:
  // By frequencies and ropeScale: cosines, then sines.
  std::map<std::pair<const Tensor*, float>, std::vector<float>> tables_;
};

// Rotates one head in place: element i pairs with i + half (rotate_half).
inline void rotate(float* head, const RotaryTable& table, int64_t token) {
  const float* cosines = table.cosines + token * table.half;
  const float* sines = table.sines + token * table.half;
  for (int64_t i = 0; i < table.half; ++i) {
    const float low = head[i];
    const float high = head[i + table.half];
    head[i] = low * cosines[i] - high * sines[i];
    head[i + table.half] = high * cosines[i] + low * sines[i];
  }
}

}  // namespace heddle::cpu
