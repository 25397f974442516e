// What the collective kernels share: waiting that ends, and words that carry their own flag.
#pragma once
#include "cuda/all_reduce.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

// One thread's patience in a kernel: after the first failure nothing waits any more, and what is received is garbage that the host
// never shows.
class Patience {
 public:
  __device__ explicit Patience(const Peers& peers) : peers_(peers) {}

  // False once the group is aborted or `peer` has been missing for too long. Called in every turn of a wait.
  __device__ bool goes_on(int peer) {
    if (broken_) return false;
    ptx::pause();
    if (++turns_ % 256 != 0) return true;
    if (ptx::load_acquire_system(&peers_.signals->aborted) != 0) return end(kAborted, peer);
    const uint64_t now = ptx::clock_nanoseconds();
    if (began_ == 0) began_ = now;
    if (now - began_ > peers_.timeout_nanoseconds) return end(kTimedOut, peer);
    return true;
  }
  __device__ void arrived() {
    began_ = 0;
    turns_ = 0;
  }

 private:
  __device__ bool end(CollectiveFailure failure, int peer) {
    broken_ = true;
    CollectiveSignals::Status& status = peers_.signals->ranks[peers_.rank];
    ptx::store_release_system(&status.missing, static_cast<uint32_t>(peer));
    ptx::store_release_system(&status.failure, failure);
    return false;
  }

  const Peers& peers_;
  uint64_t began_ = 0;
  uint32_t turns_ = 0;
  bool broken_ = false;
};

// Lets the next kernel begin its prologue, at the start of a kernel that waits for peers. Not where ranks share the GPU: blocks of the next
// kernel that wait for this one would take the places of those of a peer that this one waits for.
__device__ __forceinline__ void launch_dependents(const Peers& peers) {
  if (!peers.share_gpu) ptx::dependency_launch();
}

// Eight bytes of payload travel as 16: word, flag, word, flag. Each half is stored at once, so a word whose flag is there is there.
__device__ __forceinline__ void send_flagged(unsigned char* slot, int64_t index, uint2 payload, uint32_t epoch) {
  ptx::store_volatile_16(slot + index * 16, make_uint4(payload.x, epoch, payload.y, epoch));
}
__device__ __forceinline__ uint2 receive_flagged(const unsigned char* slot, int64_t index, uint32_t epoch, int peer, Patience& patience) {
  for (;;) {
    const uint4 v = ptx::load_volatile_16(slot + index * 16);
    if (v.y == epoch && v.w == epoch) {
      patience.arrived();
      return make_uint2(v.x, v.z);
    }
    if (!patience.goes_on(peer)) return make_uint2(0, 0);
  }
}

}  // namespace heddle::cuda
