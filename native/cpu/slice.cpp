// Columns [start, start + y.width) of every row.
#include <cstring>

#include "cpu/operations.h"

namespace heddle::cpu {

void slice(View x, int64_t start, View y) {
  const size_t row_bytes = static_cast<size_t>(y.width) * sizeof(float);
  for (int64_t row = 0; row < y.rows; ++row) {
    std::memcpy(y.floats() + row * y.width, x.floats() + row * x.width + start, row_bytes);
  }
}

}  // namespace heddle::cpu
