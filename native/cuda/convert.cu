// The elements of x with the dtype of y.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void convert_kernel(const X* x, Y* y, int64_t count, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  for_flat_share(count, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
    store(y + i, values);
  });
}

}  // namespace

void convert(const Device& device, View x, View y) {
  const int64_t count = x.rows * x.width;
  if (count == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("convert", over_elements(device, count), convert_kernel<X, Y>, static_cast<const X*>(x.data), static_cast<Y*>(y.data), count,
           start_aligned(x) && start_aligned(y));
  });
}

}  // namespace heddle::cuda
