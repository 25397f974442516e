// y = a + b, element by element.
#include "cpu/operations.h"

namespace heddle::cpu {

void add(View a, View b, View y) {
  const int64_t count = y.rows * y.width;
  const float* left = a.floats();
  const float* right = b.floats();
  float* to = y.floats();
  for (int64_t i = 0; i < count; ++i) to[i] = left[i] + right[i];
}

}  // namespace heddle::cpu
