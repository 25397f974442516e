// y = x / sqrt(mean(x^2) + eps) * weight in every row: a block for a row, which it reads twice, the second time from its L1.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void __launch_bounds__(1024) rms_norm_kernel(const X* x, const float* weight, float eps, Y* y, int64_t width, bool aligned) {
  __shared__ float partials[32];
  prefetch_share(weight, width);
  ptx::dependency_wait();
  ptx::dependency_launch();
  x += blockIdx.x * width;
  y += blockIdx.x * width;
  float squares = 0;
  for_block_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
#pragma unroll
    for (int k = 0; k < n.value; ++k) squares += values[k] * values[k];
  });
  const float factor = rsqrtf(block_sum(squares, partials) / static_cast<float>(width) + eps);
  for_block_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value], scale[n.value];
    load(x + i, values);
    load(weight + i, scale);
#pragma unroll
    for (int k = 0; k < n.value; ++k) values[k] = values[k] * factor * scale[k];
    store(y + i, values);
  });
}

}  // namespace

void rms_norm(const Device& device, View x, const Tensor& weight, float eps, View y) {
  if (x.rows * x.width == 0) return;
  const auto* scale = static_cast<const float*>(weight.buffer.data());
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("rms_norm", block_per_row(device, x.rows, x.width), rms_norm_kernel<X, Y>, static_cast<const X*>(x.data), scale, eps,
           static_cast<Y*>(y.data), x.width, rows_aligned(x) && rows_aligned(y) && is_aligned(scale, DType::float32, kVector));
  });
}

}  // namespace heddle::cuda
