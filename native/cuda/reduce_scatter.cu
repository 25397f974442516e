// Reduce-scatter: the first half of the two-shot all-reduce. A round moves a segment of every rank's part to its owner, who sums it.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/segments.cuh"

namespace heddle::cuda {

namespace {

struct Scatter {
  Peers peers;
  StagingLayout layout;
  Parts parts;
  int64_t longest;                                    // of the parts
  int64_t segment;                                    // elements
};

template <class T>
__device__ void run_round(const Scatter& call, const T* x, T* y, int64_t base, const SegmentRound& round, Patience& patience) {
  constexpr int kVector = Segment<T>::kVector;
  const Peers& peers = call.peers;
  const auto length = [&](int owner) { return max(int64_t{0}, min(call.segment, call.parts.length[owner] - base)); };
  for (int i = 0; i < peers.size; ++i) {
    const int owner = (peers.rank + i) % peers.size;
    Segment<T>::copy_in(x + call.parts.begin[owner] + base, round.staged<T>(owner, contribution, peers.rank), length(owner));
  }
  round.announce(contribution);
  round.await(contribution, patience);
  const int64_t count = length(peers.rank);
  const bool aligned = reinterpret_cast<uintptr_t>(y + base) % 16 == 0;
  for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kSegmentThreads} * kVector) {
    Segment<T>::store(Segment<T>::sum(peers, round, i), y + base, i, count, aligned);
  }
  round.announce(result);                             // that the contributions have been read
}

template <class T>
__global__ void __launch_bounds__(kSegmentThreads) scatter_sums(const __grid_constant__ Scatter call, const T* x, T* y) {
  ptx::dependency_wait();
  launch_dependents(call.peers);
  Patience patience(call.peers);
  uint32_t* counter = segment_epoch(call.peers, call.layout);
  uint32_t epoch = *counter;
  for (int64_t base = int64_t{blockIdx.x} * call.segment; base < call.longest; base += int64_t{gridDim.x} * call.segment) {
    run_round(call, x, y, base, SegmentRound(call.peers, call.layout, ++epoch), patience);
  }
  SegmentRound(call.peers, call.layout, epoch).await(result, patience);
  if (threadIdx.x == 0) *counter = epoch;
}

}  // namespace

void reduce_scatter(const Device& device, const Peers& peers, const void* x, const Parts& parts, View y) {
  const int64_t longest = *std::max_element(parts.length, parts.length + peers.size);
  if (longest == 0) return;
  const int64_t segment = segment_elements(longest, peers.blocks, y.dtype);
  const Scatter call{peers, {peers.size, peers.blocks}, parts, longest, segment};
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    launch("reduce_scatter",
           {.grid = dim3(static_cast<unsigned>(std::min<int64_t>((longest + segment - 1) / segment, peers.blocks))),
            .block = dim3(kSegmentThreads),
            .stream = device.stream(),
            .dependent = device.dependent_launch()},
           scatter_sums<T>, call, static_cast<const T*>(x), static_cast<T*>(y.data));
  });
}

}  // namespace heddle::cuda
