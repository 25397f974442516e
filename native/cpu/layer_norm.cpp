// y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, row by row.
#include "cpu/operations.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {

void layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y) {
  const auto* w = static_cast<const float*>(weight.buffer.data());
  const auto* b = bias ? static_cast<const float*>(bias->buffer.data()) : nullptr;
  const RowKernels& kernels = row_kernels();
  for (int64_t row = 0; row < y.rows; ++row) {
    kernels.layer_norm(x.floats() + row * x.width, w, b, eps, y.width, y.floats() + row * y.width);
  }
}

}  // namespace heddle::cpu
