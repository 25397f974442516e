// y[i] = the row of the last token of sequence i.
#include <cstring>

#include "cpu/operations.h"

namespace heddle::cpu {

void last_rows(const StepView& step, View x, View y) {
  const size_t row_bytes = static_cast<size_t>(y.width) * sizeof(float);
  for (int64_t i = 0; i < step.sequence_count; ++i) {
    const int64_t last = step.sequence_starts[i + 1] - 1;
    std::memcpy(y.floats() + i * y.width, x.floats() + last * x.width, row_bytes);
  }
}

}  // namespace heddle::cpu
