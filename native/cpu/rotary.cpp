#include "cpu/rotary.h"

#include <cmath>

namespace heddle::cpu {

RotaryTable RotaryCache::table(const StepView& step, const Tensor* inverse_frequencies, const AttentionSpec& spec) {
  if (spec.rope_dim == 0) return {};
  const int64_t half = spec.rope_dim / 2;
  std::vector<float>& values = tables_[{inverse_frequencies, spec.rope_scale}];
  const auto count = static_cast<size_t>(step.token_count * half);
  if (values.empty()) {
    values.resize(2 * count);
    const auto* frequencies = static_cast<const float*>(inverse_frequencies->buffer.data());
    float* cosines = values.data();
    float* sines = cosines + count;
    for (int64_t t = 0; t < step.token_count; ++t) {
      const auto position = static_cast<float>(step.positions[t]);
      for (int64_t i = 0; i < half; ++i) {
        const float angle = position * frequencies[i];
        *cosines++ = std::cos(angle) * spec.rope_scale;
        *sines++ = std::sin(angle) * spec.rope_scale;
      }
    }
  }
  return {values.data(), values.data() + count, half};
}

}  // namespace heddle::cpu
