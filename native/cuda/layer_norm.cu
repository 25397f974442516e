// y = (x - mean) / sqrt(variance + eps) * weight + bias in every row: a block for a row, which it reads three times from its L1.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void __launch_bounds__(1024)
    layer_norm_kernel(const X* x, const float* weight, const float* bias, float eps, Y* y, int64_t width, bool aligned) {
  __shared__ float partials[32];
  prefetch_share(weight, width);
  if (bias) prefetch_share(bias, width);
  ptx::dependency_wait();
  ptx::dependency_launch();
  x += blockIdx.x * width;
  y += blockIdx.x * width;
  float sum = 0;
  for_block_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
#pragma unroll
    for (int k = 0; k < n.value; ++k) sum += values[k];
  });
  const float mean = block_sum(sum, partials) / static_cast<float>(width);
  float squares = 0;
  for_block_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value];
    load(x + i, values);
#pragma unroll
    for (int k = 0; k < n.value; ++k) squares += (values[k] - mean) * (values[k] - mean);
  });
  const float factor = rsqrtf(block_sum(squares, partials) / static_cast<float>(width) + eps);
  for_block_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value], scale[n.value], shift[n.value] = {};
    load(x + i, values);
    load(weight + i, scale);
    if (bias) load(bias + i, shift);
#pragma unroll
    for (int k = 0; k < n.value; ++k) values[k] = (values[k] - mean) * factor * scale[k] + shift[k];
    store(y + i, values);
  });
}

}  // namespace

void layer_norm(const Device& device, View x, const Tensor& weight, const Tensor* bias, float eps, View y) {
  if (x.rows * x.width == 0) return;
  const auto* scale = static_cast<const float*>(weight.buffer.data());
  const auto* shift = bias ? static_cast<const float*>(bias->buffer.data()) : nullptr;
  const bool aligned = rows_aligned(x) && rows_aligned(y) && is_aligned(scale, DType::float32, kVector) &&
                       is_aligned(shift, DType::float32, kVector);
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("layer_norm", block_per_row(device, x.rows, x.width), layer_norm_kernel<X, Y>, static_cast<const X*>(x.data), scale, shift, eps,
           static_cast<Y*>(y.data), x.width, aligned);
  });
}

}  // namespace heddle::cuda
