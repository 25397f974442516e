#include "read_bandwidth.h"

#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "timing.h"

namespace heddle::test {

namespace {

constexpr int kThreads = 512;
constexpr int kInFlight = 8;

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; first < count; first += stride * kInFlight) {
    uint4 v[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) v[i] = cuda::ptx::load_streaming(data + min(first + i * stride, count - 1));
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (sum == 0x9e3779b9u) atomicAdd(sink, 1u);        // so that nothing is left out
}

}  // namespace

double read_bandwidth(const cuda::Device& device) {
  constexpr size_t kBytes = size_t{2} << 30;
  const Buffer memory = cuda::device_memory(kBytes + 16, "read bandwidth");
  cuda::check(cudaMemsetAsync(memory.data(), 0x5a, memory.bytes(), device.stream()), "read bandwidth");
  auto* sink = reinterpret_cast<uint32_t*>(static_cast<unsigned char*>(memory.data()) + kBytes);
  const double seconds = median_seconds(device, 9, [&] {
    const dim3 grid(static_cast<unsigned>(device.sm_count()) * 4);
    cuda::launch("read bandwidth", {.grid = grid, .block = dim3(kThreads), .stream = device.stream()},
                 read_kernel, static_cast<const uint4*>(memory.data()), static_cast<int64_t>(kBytes / 16), sink);
  });
  return static_cast<double>(kBytes) / seconds;
}

}  // namespace heddle::test
