// What kernels share that move segments through the staging memory of their receivers: where segments and their flags are, and copies.
// Rule: a slot is written again two rounds later, so a kernel ends only when what it sent has been read: the round behind it may be
// another collective's, whose ranks wait for other ranks.
#pragma once
#include "cuda/all_reduce.cuh"
#include "cuda/sum_tree.cuh"

namespace heddle::cuda {

constexpr int kSegmentThreads = 512;

enum SegmentKind { contribution = 0, result = 1 };

// One block's round. Epochs of a block advance alike on all ranks, whatever the collective.
class SegmentRound {
 public:
  __device__ SegmentRound(const Peers& peers, const StagingLayout& layout, uint32_t epoch)
      : peers_(peers), layout_(layout), epoch_(epoch), block_(static_cast<int>(blockIdx.x)) {}

  // The segment of `from` in the memory of `at`.
  template <class T>
  __device__ T* staged(int at, SegmentKind kind, int from) const {
    return reinterpret_cast<T*>(peers_.staging[at] + layout_.segment_slot(static_cast<int>(epoch_ % 2), block_, kind, from));
  }

  // All earlier reads and writes of this block come before the flag that `peer`, or every peer, sees.
  __device__ void announce(SegmentKind kind) const {
    __threadfence_system();
    __syncthreads();
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < peers_.size) ptx::store_release_system(flag(peer, kind, peers_.rank), epoch_);
  }
  __device__ void announce_to(int peer, SegmentKind kind) const {
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) ptx::store_release_system(flag(peer, kind, peers_.rank), epoch_);
  }

  // Until the flag of every rank, or of `peer`, has come as far as this round, or `behind` rounds less.
  __device__ void await(SegmentKind kind, Patience& patience) const {
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < peers_.size) wait_for(peer, kind, epoch_, patience);
    __syncthreads();
  }
  __device__ void await_from(int peer, SegmentKind kind, Patience& patience, uint32_t behind = 0) const {
    if (threadIdx.x == 0) wait_for(peer, kind, epoch_ - behind, patience);
    __syncthreads();
  }

 private:
  __device__ uint32_t* flag(int at, SegmentKind kind, int from) const {
    return reinterpret_cast<uint32_t*>(peers_.staging[at] + layout_.flag(block_, kind, from));
  }
  // A peer may be ahead; epochs wrap around.
  __device__ void wait_for(int peer, SegmentKind kind, uint32_t epoch, Patience& patience) const {
    const uint32_t* word = flag(peers_.rank, kind, peer);
    while (static_cast<int32_t>(ptx::load_acquire_system(word) - epoch) < 0 && patience.goes_on(peer)) {
    }
    patience.arrived();
  }

  const Peers& peers_;
  const StagingLayout& layout_;
  uint32_t epoch_;
  int block_;
};

// This block's count of rounds, which the kernel advances.
__device__ __forceinline__ uint32_t* segment_epoch(const Peers& peers, const StagingLayout& layout) {
  return reinterpret_cast<uint32_t*>(peers.staging[peers.rank] + layout.epoch(static_cast<int>(blockIdx.x), 1));
}

// Sixteen bytes of elements.
template <class T>
struct Segment {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  union Sixteen {
    uint4 words;
    T elements[kVector];
  };

  // Staging memory is written by others while this kernel runs: nothing of it may come from a cache of this multiprocessor.
  static __device__ void copy_out(const T* staged, T* to, int64_t count) {
    const bool aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0;
    for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kSegmentThreads} * kVector) {
      Sixteen v;
      v.words = ptx::load_volatile_16(staged + i);
      store(v, to, i, count, aligned);
    }
  }
  static __device__ void copy_in(const T* from, T* staged, int64_t count) {
    const bool aligned = reinterpret_cast<uintptr_t>(from) % 16 == 0;
    for (int64_t i = int64_t{threadIdx.x} * kVector; i < count; i += int64_t{kSegmentThreads} * kVector) {
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

  // Elements i … of the sum of all ranks' contributions, in float32.
  static __device__ Sixteen sum(const Peers& peers, const SegmentRound& round, int64_t i) {
    float totals[kVector];
    SumTree<kVector, kPeerLevels> tree;
    for (int rank = 0; rank < peers.size; ++rank) {
      Sixteen part;
      part.words = ptx::load_volatile_16(round.staged<T>(peers.rank, contribution, rank) + i);
#pragma unroll
      for (int k = 0; k < kVector; ++k) totals[k] = to_float(part.elements[k]);
      tree.add(totals, rank, peers.size);
    }
    Sixteen all;
#pragma unroll
    for (int k = 0; k < kVector; ++k) all.elements[k] = number<T>(totals[k]);
    return all;
  }

  // to[i …], of which `count` elements exist.
  static __device__ void store(const Sixteen& v, T* to, int64_t i, int64_t count, bool aligned) {
    if (aligned && i + kVector <= count) {
      *reinterpret_cast<uint4*>(to + i) = v.words;
    } else {
      #pragma unroll
      for (int k = 0; k < kVector; ++k) {
        if (i + k < count) to[i + k] = v.elements[k];
      }
    }
  }
};

// Elements of a segment where `shares` blocks or parts of a block divide `count`: whole vectors.
inline int64_t segment_elements(int64_t count, int64_t shares, DType dtype) {
  const auto largest = static_cast<int64_t>(kSegmentBytes / size_of(dtype));
  const auto vector = static_cast<int64_t>(16 / size_of(dtype));
  return std::min(largest, ((count + shares - 1) / shares + vector - 1) / vector * vector);
}

}  // namespace heddle::cuda
