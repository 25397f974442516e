// y = kind(x), element by element.
#include "cpu/operations.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {

void activation(View x, Activation kind, View y) {
  row_kernels().activation(kind, x.floats(), y.rows * y.width, y.floats());
}

}  // namespace heddle::cpu
