// Rows of the embedding table that this rank holds, scaled; ids of other ranks give zero rows, which the all-reduce fills.
#include <algorithm>

#include "cpu/operations.h"

namespace heddle::cpu {

void embed(const StepView& step, const Tensor& weight, const EmbedSpec& spec, bool reproducible, View y) {
  const int32_t* ids = spec.by_position ? step.positions : step.tokens;
  const auto* table = static_cast<const char*>(weight.buffer.data());
  const auto width = static_cast<size_t>(y.width);
  const size_t row_bytes = width * size_of(weight.dtype);
  for (int64_t t = 0; t < step.token_count; ++t) {
    float* target = y.floats() + t * y.width;
    const int64_t row = ids[t] - spec.first_row;
    if (row < 0 || row >= weight.rows()) {
      std::fill_n(target, width, 0.0f);
    } else {
      convert(table + static_cast<size_t>(row) * row_bytes, weight.dtype, target, DType::float32, width);
      if (spec.scale != 1) std::transform(target, target + width, target, [&](float value) { return value * spec.scale; });
      // -0 becomes +0, as it does wherever the zero row of another rank is added
      if (reproducible) std::transform(target, target + width, target, [](float value) { return value + 0.0f; });
    }
  }
}

}  // namespace heddle::cpu
