// Few rows: a warp sums up a weight row of an expert for one row of x, and reads nothing but what chosen experts hold.
#include "cuda/experts.cuh"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 8;

template <class W, class T>
__device__ __forceinline__ float dot(const W* weight, const T* x, int width, bool aligned) {
  float sum = 0;
  for_share(width, aligned, static_cast<int>(threadIdx.x % 32), 32, [&](auto n, int64_t i) {
    float a[n.value], b[n.value];
    load(weight + i, a);
    load(x + i, b);
#pragma unroll
    for (int k = 0; k < n.value; ++k) sum += a[k] * b[k];
  });
  return warp_sum(sum);
}

// blockIdx: inner rows, place of the expert, row of x.
template <class W, class T>
__global__ void up_kernel(const ExpertsWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.z), wanted = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (i >= work.inner) return;
  const int expert = expert_at(work, row, wanted);
  if (expert < 0) return;
  const T* x = static_cast<const T*>(work.x) + int64_t{row} * work.width;
  const W* gate = static_cast<const W*>(work.gate_up) + (int64_t{expert} * 2 * work.inner + i) * work.width;
  const float gated = dot(gate, x, work.width, work.aligned);
  const float up = dot(gate + int64_t{work.inner} * work.width, x, work.width, work.aligned);
  T* target = static_cast<T*>(work.inner_values) + (int64_t{row} * work.per_token + wanted) * work.inner + i;
  if (threadIdx.x % 32 == 0) from_float(activate(work.kind, gated) * up, *target);
}

// blockIdx: columns of y, row.
template <class W, class T, class Y>
__global__ void down_kernel(const ExpertsWork work) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (column >= work.width) return;
  float sum = 0;
  for_experts(work, row, [&](int place, int expert, float weight) {
    const T* inner = static_cast<const T*>(work.inner_values) + (int64_t{row} * work.per_token + place) * work.inner;
    const W* down = static_cast<const W*>(work.down) + (int64_t{expert} * work.width + column) * work.inner;
    sum += weight * dot(down, inner, work.inner, work.aligned);
  });
  if (threadIdx.x % 32 == 0) from_float(sum, static_cast<Y*>(work.y)[int64_t{row} * work.width + column]);
}

Launch over(const Device& device, int columns, int places, int rows) {
  const auto blocks = static_cast<unsigned>((columns + kWarps - 1) / kWarps);
  return {.grid = places > 0 ? dim3(blocks, static_cast<unsigned>(places), static_cast<unsigned>(rows)) : dim3(blocks, static_cast<unsigned>(rows)),
          .block = dim3(32 * kWarps),
          .stream = device.stream(),
          .dependent = device.dependent_launch()};
}

}  // namespace

void experts_few(const Device& device, const ExpertsWork& work, const ExpertsTypes& types) {
  with_product_types(types.gate_up, types.single, [&](auto w, auto t) {
    launch("experts", over(device, work.inner, work.per_token, work.rows), up_kernel<decltype(w), decltype(t)>, work);
  });
  with_product_types(types.down, types.single, [&](auto w, auto t) {
    with_type(work.y_dtype, [&](auto y) {
      launch("experts", over(device, work.width, 0, work.rows), down_kernel<decltype(w), decltype(t), decltype(y)>, work);
    });
  });
}

}  // namespace heddle::cuda
