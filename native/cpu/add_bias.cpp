// y[row] = x[row] + bias.
#include "cpu/operations.h"

namespace heddle::cpu {

void add_bias(View x, const Tensor& bias, View y) {
  const auto* b = static_cast<const float*>(bias.buffer.data());
  for (int64_t row = 0; row < y.rows; ++row) {
    const float* from = x.floats() + row * x.width;
    float* to = y.floats() + row * y.width;
    for (int64_t i = 0; i < y.width; ++i) to[i] = from[i] + b[i];
  }
}

}  // namespace heddle::cpu
