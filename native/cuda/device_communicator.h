// A communicator whose collectives run on the ranks' streams. Made for a group, attached by each rank to its device.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "cuda/device.h"

namespace heddle::cuda {

// What follows an all-reduce in a decoder: sum += residual; then the norm of that.
struct AllReduceEpilogue {
  View residual;                                      // data null: none; else residual + sum is written to `y`
  View y;                                             // the result (with or without residual); may be x or residual
  const Tensor* norm_weight = nullptr;                // null: none
  float norm_eps = 0;
  View normed;                                        // RMS norm of y
};

// Rule: every method but abort is called on the rank's thread, in the same order on every rank. all_reduce, all_gather and gather only
// submit; an error of theirs shows in `expect_healthy` or in a later call.
class DeviceCommunicator : public Communicator {
 public:
  // Collective. Exchanges addresses or ids with the peers through the host; before any other call but abort.
  virtual void attach(const Device& device) = 0;

  // True where `all_reduce_fused` runs this as one kernel; the same on every rank. Else the caller runs the parts.
  virtual bool fuses(View x, const AllReduceEpilogue& epilogue) const = 0;
  virtual void all_reduce_fused(View x, const AllReduceEpilogue& epilogue) = 0;

  // Device memory: `bytes` of every rank, in rank order, into `all` [size * bytes] of every rank.
  virtual void gather(const void* mine, size_t bytes, void* all) = 0;

  // Memory of this rank's device for what ranks sum: as the communicator likes it best. Throws out_of_memory.
  virtual Buffer allocate(const Device& device, size_t bytes, const char* what) { return device.allocate(bytes, what); }
  // Collective. Shows that memory to the peers, where sums of what lies in it are the faster for it; where they are not, or that does
  // not work, nothing changes. `layout` stands for where in it the summed values lie.
  virtual void register_memory(const Buffer&, uint64_t /*layout*/) {}
  virtual void forget_memory(const Buffer&) noexcept {}  // before its release

  // Called while the host waits for the stream, about every millisecond: throws peer_failed after an abort, collective_failed where
  // a collective broke. Kernels of an aborted communicator end by themselves.
  virtual void expect_healthy() = 0;

  // Collective, on the host alone: every rank is here. Before the first launch of a captured graph.
  virtual void barrier() = 0;

  // On every rank alike. While it is on, ranks that share a GPU meet on the host before and after they submit a collective: until then a
  // rank may take memory or load a kernel, which can wait for the whole GPU, and there for a kernel that waits for this rank.
  virtual void lockstep(bool) {}
};

// Whether the parts of all ranks lie one behind the other in `whole`, all of one size: then nothing needs to be rearranged.
inline bool is_flat(View whole, const std::vector<int64_t>& widths) {
  return whole.rows == 1 && std::all_of(widths.begin(), widths.end(), [&](int64_t width) { return width == widths.front(); });
}

inline void copy_bytes(const Device& device, const void* from, size_t bytes, void* to) {
  if (bytes == 0 || from == to) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device.stream()), "communicator: a copy");
}

// For a step that may take memory.
class Lockstep {
 public:
  explicit Lockstep(DeviceCommunicator& communicator) : communicator_(communicator) { communicator.lockstep(true); }
  ~Lockstep() { communicator_.lockstep(false); }
  Lockstep(const Lockstep&) = delete;
  Lockstep& operator=(const Lockstep&) = delete;

 private:
  DeviceCommunicator& communicator_;
};

}  // namespace heddle::cuda
