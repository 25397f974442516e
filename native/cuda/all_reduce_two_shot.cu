// All-reduce of many bytes: a round moves a segment of every rank's part through the staging memory of its owner, who sums it and hands
// the sum to all. Staging is double-buffered by round, as in the one-shot kernel.
#include <algorithm>

#include "cuda/all_reduce.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 512;

struct TwoShot {
  Peers peers;
  StagingLayout layout;
  int64_t count;                                      // elements of x
  int64_t segment;                                    // elements of a segment
};

enum Kind { contribution = 0, result = 1 };

// One block's round: who owns which elements, and where they are staged.
template <class T>
class Round {
 public:
  __device__ Round(const TwoShot& call, T* x, int64_t base, uint32_t epoch)
      : call_(call), x_(x), base_(base), epoch_(epoch), block_(static_cast<int>(blockIdx.x)), parity_(static_cast<int>(epoch % 2)) {}

  __device__ void run(Patience& patience) {
    const Peers& peers = call_.peers;
    for (int i = 0; i < peers.size; ++i) {
      const int owner = (peers.rank + i) % peers.size;
      copy(x_ + begin(owner), staged(owner, contribution, peers.rank), length(owner));
    }
    announce(contribution);
    await(contribution, patience);
    sum();
    announce(result);
    await(result, patience);
    for (int owner = 0; owner < peers.size; ++owner) copy_volatile(staged(peers.rank, result, owner), x_ + begin(owner), length(owner));
  }

 private:
  __device__ int64_t begin(int owner) const { return base_ + owner * call_.segment; }
  __device__ int64_t length(int owner) const { return max(int64_t{0}, min(call_.segment, call_.count - begin(owner))); }
  __device__ T* staged(int at, Kind kind, int from) const {
    return reinterpret_cast<T*>(call_.peers.staging[at] + call_.layout.segment_slot(parity_, block_, kind, from));
  }
  __device__ uint32_t* flag(int at, Kind kind, int from) const {
    return reinterpret_cast<uint32_t*>(call_.peers.staging[at] + call_.layout.flag(block_, kind, from));
  }

  // All earlier writes of this block are seen by whoever sees the flag.
  __device__ void announce(Kind kind) const {
    __threadfence_system();
    __syncthreads();
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < call_.peers.size) ptx::store_release_system(flag(peer, kind, call_.peers.rank), epoch_);
  }
  __device__ void await(Kind kind, Patience& patience) const {
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < call_.peers.size) {
      while (ptx::load_acquire_system(flag(call_.peers.rank, kind, peer)) != epoch_ && patience.goes_on(peer)) {
      }
      patience.arrived();
    }
    __syncthreads();
  }

  // The segment that this rank owns, to every peer.
  __device__ void sum() const {
    const Peers& peers = call_.peers;
    const int64_t count = length(peers.rank);
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      float total = 0;
      for (int rank = 0; rank < peers.size; ++rank) total += to_float(load_volatile(staged(peers.rank, contribution, rank) + i));
      const T value = number<T>(total);
      for (int peer = 0; peer < peers.size; ++peer) staged(peer, result, peers.rank)[i] = value;
    }
  }

  // Staging memory is written by others while this kernel runs: nothing of it may come from a cache of this multiprocessor.
  static __device__ T load_volatile(const T* address) {
    if constexpr (sizeof(T) == 4) {
      return *static_cast<const volatile float*>(address);
    } else {
      return T{*reinterpret_cast<const volatile uint16_t*>(address)};
    }
  }
  static __device__ void copy(const T* from, T* to, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
  }
  static __device__ void copy_volatile(const T* from, T* to, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) to[i] = load_volatile(from + i);
  }

  const TwoShot& call_;
  T* x_;
  int64_t base_;
  uint32_t epoch_;
  int block_;
  int parity_;
};

template <class T>
__global__ void __launch_bounds__(kThreads) two_shot(const __grid_constant__ TwoShot call, T* x) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int block = static_cast<int>(blockIdx.x);
  Patience patience(call.peers);
  auto* counter = reinterpret_cast<uint32_t*>(call.peers.staging[call.peers.rank] + call.layout.epoch(block, 1));
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
  const auto largest = static_cast<int64_t>(kSegmentBytes / size_of(x.dtype));
  const int64_t shares = int64_t{peers.size} * peers.blocks;
  const int64_t segment = std::clamp<int64_t>((count + shares - 1) / shares, 1, largest);
  const int64_t rounds = (count + segment * peers.size - 1) / (segment * peers.size);
  const TwoShot call{peers, {peers.size, peers.blocks}, count, segment};
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch("all_reduce",
           {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(rounds, peers.blocks))),
            .block = dim3(kThreads),
            .stream = device.stream(),
            .dependent = device.dependent_launch()},
           two_shot<T>, call, static_cast<T*>(x.data));
  });
}

}  // namespace heddle::cuda
