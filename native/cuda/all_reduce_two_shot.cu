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
      copy_in(x_ + begin(owner), staged(owner, contribution, peers.rank), length(owner));
    }
    announce(contribution);
    await(contribution, patience);
    sum();
    announce(result);
    await(result, patience);
    for (int owner = 0; owner < peers.size; ++owner) {
      copy_out(staged(peers.rank, result, owner), x_ + begin(owner), length(owner));
    }
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

  // The segment that this rank owns, to every peer. Whole vectors: what lies behind the last element is staged and never copied out.
  __device__ void sum() const {
    const Peers& peers = call_.peers;
    const int64_t vectors = (length(peers.rank) + kVector - 1) / kVector;
    for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
      float totals[kVector] = {};
      for (int rank = 0; rank < peers.size; ++rank) {
        Sixteen part;
        part.words = ptx::load_volatile_16(staged(peers.rank, contribution, rank) + i * kVector);
#pragma unroll
        for (int k = 0; k < kVector; ++k) totals[k] += to_float(part.elements[k]);
      }
      Sixteen all;
#pragma unroll
      for (int k = 0; k < kVector; ++k) all.elements[k] = number<T>(totals[k]);
      for (int peer = 0; peer < peers.size; ++peer) {
        *reinterpret_cast<uint4*>(staged(peer, result, peers.rank) + i * kVector) = all.words;
      }
    }
  }

  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  union Sixteen {
    uint4 words;
    T elements[kVector];
  };

  // Staging memory is written by others while this kernel runs: nothing of it may come from a cache of this multiprocessor.
  static __device__ void copy_out(const T* staged, T* to, int64_t count) {
    const bool aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0;
    for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kThreads} * kVector) {
      Sixteen v;
      v.words = ptx::load_volatile_16(staged + i);
      if (aligned && i + kVector <= count) {
        *reinterpret_cast<uint4*>(to + i) = v.words;
      } else {
        #pragma unroll
        for (int k = 0; k < kVector; ++k) {
          if (i + k < count) to[i + k] = v.elements[k];
        }
      }
    }
  }
  static __device__ void copy_in(const T* from, T* staged, int64_t count) {
    const bool aligned = reinterpret_cast<uintptr_t>(from) % 16 == 0;
    for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kThreads} * kVector) {
      Sixteen v;
      if (aligned && i + kVector <= count) {
        v.words = *reinterpret_cast<const uint4*>(from + i);
      } else {
        v.words = make_uint4(0, 0, 0, 0);
        #pragma unroll
        for (int k = 0; k < kVector; ++k) {
          if (i + k < count) v.elements[k] = from[i + k];
        }
      }
      *reinterpret_cast<uint4*>(staged + i) = v.words;
    }
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
  launch_dependents(call.peers);
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
  const auto vector = static_cast<int64_t>(16 / size_of(x.dtype));
  const int64_t segment = std::min(largest, ((count + shares - 1) / shares + vector - 1) / vector * vector);
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
