// Rows of the embedding table that this rank holds; tokens of other ranks give zero rows, which the all-reduce fills.
#include <algorithm>

#include "cpu/operations.h"

namespace heddle::cpu {

void embed(const StepView& step, const Tensor& weight, int64_t first_row, View y) {
  const auto* table = static_cast<const char*>(weight.buffer.data());
  const auto width = static_cast<size_t>(y.width);
  const size_t row_bytes = width * size_of(weight.dtype);
  for (int64_t t = 0; t < step.token_count; ++t) {
    float* target = y.floats() + t * y.width;
    const int64_t row = step.tokens[t] - first_row;
    if (row < 0 || row >= weight.rows()) {
      std::fill_n(target, width, 0.0f);
    } else {
      convert(table + static_cast<size_t>(row) * row_bytes, weight.dtype, target, DType::float32, width);
    }
  }
}

}  // namespace heddle::cpu
