// y[i] = x[last token of sequence i].
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void last_rows_kernel(DeviceStep step, const X* x, Y* y, int64_t width, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  if (static_cast<int32_t>(blockIdx.x) >= step.counts->sequences) return;
  x += (step.sequence_starts[blockIdx.x + 1] - 1) * width;
  y += blockIdx.x * width;
  for_row_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
    store(y + i, values);
  });
}

}  // namespace

void last_rows(const Device& device, const DeviceStep& step, View x, View y) {
  if (y.rows * y.width == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("last_rows", over_rows(device, y.rows, y.width), last_rows_kernel<X, Y>, step, static_cast<const X*>(x.data),
           static_cast<Y*>(y.data), y.width, rows_aligned(x) && rows_aligned(y));
  });
}

}  // namespace heddle::cuda
