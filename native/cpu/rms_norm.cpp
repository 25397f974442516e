// y = x / sqrt(mean(x^2) + eps) * weight, row by row.
#include "cpu/operations.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {

void rms_norm(View x, const Tensor& weight, float eps, View y) {
  const auto* w = static_cast<const float*>(weight.buffer.data());
  const RowKernels& kernels = row_kernels();
  for (int64_t row = 0; row < y.rows; ++row)
    kernels.rms_norm(x.floats() + row * x.width, w, eps, y.width, y.floats() + row * y.width);
}

}  // namespace heddle::cpu
