// What ranks do together. One object per rank, called from that rank's thread alone, in the same order on every rank.
#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"

namespace heddle {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x := sum over the ranks, in fp32 and in rank order, so that every rank gets the same bits.
  virtual void all_reduce(View x) = 0;
  // y[row] = x of rank 0 [row] | x of rank 1 [row] | …; widths[rank] elements from each.
  virtual void all_gather(View x, const std::vector<int64_t>& widths, View y) = 0;
  // Host memory: `bytes` from every rank, in rank order, into `all` (size() * bytes). For small things such as candidates.
  virtual void exchange(const void* mine, size_t bytes, void* all) = 0;

  // From any thread, any number of times: wakes every rank that waits or will wait; they throw peer_failed with `reason`.
  virtual void abort(const std::string& reason) noexcept = 0;
};

}  // namespace heddle
