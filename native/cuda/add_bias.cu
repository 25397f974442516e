// y = x + bias in every row.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void add_bias_kernel(const X* x, const float* bias, Y* y, int64_t width, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  x += blockIdx.x * width;
  y += blockIdx.x * width;
  for_row_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value], added[n.value];
    load(x + i, values);
    load(bias + i, added);
#pragma unroll
    for (int k = 0; k < n.value; ++k) values[k] += added[k];
    store(y + i, values);
  });
}

}  // namespace

void add_bias(const Device& device, View x, const Tensor& bias, View y) {
  if (x.rows * x.width == 0) return;
  const auto* added = static_cast<const float*>(bias.buffer.data());
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("add_bias", over_rows(device, x.rows, x.width), add_bias_kernel<X, Y>, static_cast<const X*>(x.data), added,
           static_cast<Y*>(y.data), x.width, rows_aligned(x) && rows_aligned(y) && is_aligned(added, DType::float32, kVector));
  });
}

}  // namespace heddle::cuda
