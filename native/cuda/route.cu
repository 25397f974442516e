// Of a row of logits softmax, of which the largest stay; the order is by value, then by place. A warp for each row.
#include "cuda/operations.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 4;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Candidate {
  float value;
  int place;                                          // -1: none
};

__device__ __forceinline__ bool precedes(Candidate a, Candidate b) {
  return a.place >= 0 && (b.place < 0 || a.value > b.value || (a.value == b.value && a.place < b.place));
}

// The largest of what comes after `last` in that order; NaN is left out.
template <class X>
__device__ Candidate next_largest(const X* x, int width, Candidate last) {
  Candidate best = {0, -1};
  for (int i = static_cast<int>(threadIdx.x % 32); i < width; i += 32) {
    const Candidate candidate = {to_float(x[i]), i};
    const bool after = last.place < 0 ? candidate.value == candidate.value : precedes(last, candidate) && candidate.value <= last.value;
    if (after && candidate.place != last.place && precedes(candidate, best)) best = candidate;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Candidate other = {__shfl_xor_sync(kAllLanes, best.value, distance), __shfl_xor_sync(kAllLanes, best.place, distance)};
    if (precedes(other, best)) best = other;
  }
  return best;
}

template <class X, class Y>
__global__ void route_kernel(const X* x, RouteSpec spec, Y* y, int rows, int width) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int row = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  if (row >= rows) return;
  x += int64_t{row} * width;
  y += int64_t{row} * width;
  const Candidate largest = next_largest(x, width, {0, -1});
  Candidate last = largest;
  float total = 0;
  if (spec.normalized) {
    for (int64_t i = 0; i < spec.experts_per_token && last.place >= 0; ++i) {
      total += expf(last.value - largest.value);
      last = next_largest(x, width, last);
    }
  } else {
    for (int i = lane; i < width; i += 32) total += expf(to_float(x[i]) - largest.value);
    total = warp_sum(total);
  }
  for (int i = lane; i < width; i += 32) from_float(0.0f, y[i]);
  __syncwarp();
  last = largest;
  for (int64_t i = 0; i < spec.experts_per_token && last.place >= 0; ++i) {
    if (lane == 0) from_float(expf(last.value - largest.value) / total, y[last.place]);
    last = next_largest(x, width, last);
  }
}

}  // namespace

void route(const Device& device, View x, const RouteSpec& spec, View y) {
  if (y.rows == 0) return;
  with_types(x.dtype, y.dtype, [&](auto from, auto to) {
    using X = decltype(from);
    using Y = decltype(to);
    launch("route",
           {.grid = dim3(static_cast<unsigned>((y.rows + kWarps - 1) / kWarps)),
            .block = dim3(32 * kWarps),
            .stream = device.stream(),
            .dependent = device.dependent_launch()},
           route_kernel<X, Y>, static_cast<const X*>(x.data), spec, static_cast<Y*>(y.data), static_cast<int>(y.rows), static_cast<int>(y.width));
  });
}

}  // namespace heddle::cuda
