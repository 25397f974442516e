// y = kind(gate) * up, where a row of x is [gate | up].
#include "cpu/operations.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {

void gated(View x, Activation kind, View y) {
  const RowKernels& kernels = row_kernels();
  for (int64_t row = 0; row < y.rows; ++row) {
    const float* gate = x.floats() + row * x.width;
    kernels.gated(kind, gate, gate + y.width, y.width, y.floats() + row * y.width);
  }
}

}  // namespace heddle::cpu
