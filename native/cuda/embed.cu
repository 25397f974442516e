// y[t] = the row of token or position t, scaled; zeros where another rank has it. Zeros are +0, as they are where ranks are summed.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

template <class W, class Y>
__global__ void embed_kernel(DeviceStep step, const W* weight, EmbedSpec spec, int64_t row_count, Y* y, int64_t width, bool aligned) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  if (static_cast<int32_t>(blockIdx.x) >= step.counts->tokens) return;
  const int32_t id = spec.by_position ? step.positions[blockIdx.x] : step.tokens[blockIdx.x];
  const int64_t row = int64_t{id < 0 ? step.last_tokens[-1 - id] : id} - spec.first_row;
  const bool mine = row >= 0 && row < row_count;
  weight += mine ? row * width : 0;
  y += blockIdx.x * width;
  for_row_share(width, aligned, [&](auto n, int64_t i) {
    float values[n.value] = {};
    if (mine) load(weight + i, values);
#pragma unroll
    for (int k = 0; k < n.value; ++k) {
      values[k] *= spec.scale;
      if (values[k] == 0.0f) values[k] = 0.0f;
    }
    store(y + i, values);
  });
}

}  // namespace

void embed(const Device& device, const DeviceStep& step, const Tensor& weight, const EmbedSpec& spec, View y) {
  if (y.rows * y.width == 0) return;
  with_types(weight.dtype, y.dtype, [&](auto from, auto to) {
    using W = decltype(from);
    using Y = decltype(to);
    const auto* rows = static_cast<const W*>(weight.buffer.data());
    launch("embed", over_rows(device, y.rows, y.width), embed_kernel<W, Y>, step, rows, spec, weight.rows(), static_cast<Y*>(y.data), y.width,
           is_aligned(rows, weight.dtype, y.width) && rows_aligned(y));
  });
}

}  // namespace heddle::cuda
