// y = a + b, element by element.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class A, class B, class Y>
__global__ void add_kernel(const A* a, const B* b, Y* y, int64_t count, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  for_flat_share(count, aligned, [&](auto n, int64_t i) {
    float left[n.value], right[n.value];
    load(a + i, left);
    load(b + i, right);
#pragma unroll
    for (int k = 0; k < n.value; ++k) left[k] += right[k];
    store(y + i, left);
  });
}

}  // namespace

void add(const Device& device, View a, View b, View y) {
  const int64_t count = a.rows * a.width;
  if (count == 0) return;
  with_types(a.dtype, b.dtype, [&](auto left, auto right) {
    with_type(y.dtype, [&](auto to) {
      using A = decltype(left);
      using B = decltype(right);
      using Y = decltype(to);
      launch("add", over_elements(device, count), add_kernel<A, B, Y>, static_cast<const A*>(a.data), static_cast<const B*>(b.data),
             static_cast<Y*>(y.data), count, start_aligned(a) && start_aligned(b) && start_aligned(y));
    });
  });
}

}  // namespace heddle::cuda
