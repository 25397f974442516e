// y = columns [start, start + y.width) of x.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void slice_kernel(const X* x, int64_t x_width, Y* y, int64_t y_width, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  x += blockIdx.x * x_width;
  y += blockIdx.x * y_width;
  for_row_share(y_width, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
    store(y + i, values);
  });
}

}  // namespace

void slice(const Device& device, View x, int64_t start, View y) {
  if (y.rows * y.width == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    const X* first = static_cast<const X*>(x.data) + start;
    launch("slice", over_rows(device, y.rows, y.width), slice_kernel<X, Y>, first, x.width, static_cast<Y*>(y.data), y.width,
           is_aligned(first, x.dtype, x.width) && rows_aligned(y));
  });
}

}  // namespace heddle::cuda
