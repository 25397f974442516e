// y = kind(x), element by element.
#include "cuda/activation.cuh"
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void activation_kernel(const X* x, Y* y, int64_t count, bool aligned, Activation kind) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  for_flat_share(count, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
    for (float& value : values) value = activate(kind, value);
    store(y + i, values);
  });
}

}  // namespace

void activation(const Device& device, View x, Activation kind, View y) {
  const int64_t count = x.rows * x.width;
  if (count == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("activation", over_elements(device, count), activation_kernel<X, Y>, static_cast<const X*>(x.data),
           static_cast<Y*>(y.data), count, start_aligned(x) && start_aligned(y), kind);
  });
}

}  // namespace heddle::cuda
