// All-reduce of many bytes: a round moves a segment of every rank's part through the staging memory of its owner, who sums it and hands
// the sum to all. Staging is double-buffered by round, as in the one-shot kernel.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/segments.cuh"

namespace heddle::cuda {

namespace {

struct TwoShot {
  Peers peers;
  StagingLayout layout;
  int64_t count;                                      // elements of x
  int64_t segment;                                    // elements of a segment
};

// One block's round: who owns which elements.
template <class T>
class Round {
 public:
  __device__ Round(const TwoShot& call, T* x, int64_t base, uint32_t epoch)
      : call_(call), x_(x), base_(base), round_(call.peers, call.layout, epoch) {}

  __device__ void run(Patience& patience) {
    const Peers& peers = call_.peers;
    for (int i = 0; i < peers.size; ++i) {
      const int owner = (peers.rank + i) % peers.size;
      Segment<T>::copy_in(x_ + begin(owner), round_.staged<T>(owner, contribution, peers.rank), length(owner));
    }
    round_.announce(contribution);
    round_.await(contribution, patience);
    sum();
    round_.announce(result);
    round_.await(result, patience);
    for (int owner = 0; owner < peers.size; ++owner) {
      Segment<T>::copy_out(round_.staged<T>(peers.rank, result, owner), x_ + begin(owner), length(owner));
    }
  }

 private:
  __device__ int64_t begin(int owner) const { return base_ + owner * call_.segment; }
  __device__ int64_t length(int owner) const { return max(int64_t{0}, min(call_.segment, call_.count - begin(owner))); }

  // The segment that this rank owns, to every peer. Whole vectors: what lies behind the last element is staged and never copied out.
  __device__ void sum() const {
    constexpr int kVector = Segment<T>::kVector;
    const Peers& peers = call_.peers;
    const int64_t count = length(peers.rank);
    for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kSegmentThreads} * kVector) {
      const auto all = Segment<T>::sum(peers, round_, i);
      for (int peer = 0; peer < peers.size; ++peer) {
        *reinterpret_cast<uint4*>(round_.staged<T>(peer, result, peers.rank) + i) = all.words;
      }
    }
  }

  const TwoShot& call_;
  T* x_;
  int64_t base_;
  SegmentRound round_;
};

template <class T>
__global__ void __launch_bounds__(kSegmentThreads) two_shot(const __grid_constant__ TwoShot call, T* x) {
  ptx::dependency_wait();
  launch_dependents(call.peers);
  const int block = static_cast<int>(blockIdx.x);
  Patience patience(call.peers);
  uint32_t* counter = segment_epoch(call.peers, call.layout);
  uint32_t epoch = *counter;
  const int64_t round = call.segment * call.peers.size;  // elements of a block's round
  for (int64_t base = block * round; base < call.count; base += int64_t{gridDim.x} * round) {
    Round<T>(call, x, base, ++epoch).run(patience);
  }
  __syncthreads();
  if (threadIdx.x == 0) *counter = epoch;
}

}  // namespace

void all_reduce_two_shot(const Device& device, const Peers& peers, View x) {
  const int64_t count = x.rows * x.width;
  if (count == 0) return;
  const int64_t segment = segment_elements(count, int64_t{peers.size} * peers.blocks, x.dtype);
  const int64_t rounds = (count + segment * peers.size - 1) / (segment * peers.size);
  const TwoShot call{peers, {peers.size, peers.blocks}, count, segment};
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch("all_reduce",
           {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(rounds, peers.blocks))),
            .block = dim3(kSegmentThreads),
            .stream = device.stream(),
            .dependent = device.dependent_launch()},
           two_shot<T>, call, static_cast<T*>(x.data));
  });
}

}  // namespace heddle::cuda
