// y = kind(gate) * up, where a row of x is [gate | up].
#include "cuda/activation.cuh"
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class X, class Y>
__global__ void gated_kernel(const X* x, Y* y, int64_t width, bool aligned, Activation kind) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  x += 2 * blockIdx.x * width;
  y += blockIdx.x * width;
  for_row_share(width, aligned, [&](auto n, int64_t i) {
    float gate[n.value], up[n.value];
    load(x + i, gate);
    load(x + width + i, up);
#pragma unroll
    for (int k = 0; k < n.value; ++k) gate[k] = activate(kind, gate[k]) * up[k];
    store(y + i, gate);
  });
}

}  // namespace

void gated(const Device& device, View x, Activation kind, View y) {
  if (y.rows * y.width == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("gated", over_rows(device, y.rows, y.width), gated_kernel<X, Y>, static_cast<const X*>(x.data), static_cast<Y*>(y.data), y.width,
           is_aligned(x.data, x.dtype, y.width) && rows_aligned(y), kind);
  });
}

}  // namespace heddle::cuda
