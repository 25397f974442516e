// What ranks do together. One object per rank, called from that rank's thread alone, in the same order on every rank.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace heddle {

// How long a rank waits for its peers in one collective, unless a group says otherwise.
constexpr std::chrono::milliseconds kCollectiveTimeout{120000};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x := sum over the ranks, in fp32 and in the order of core/sum_tree.h, so that every rank gets the same bits.
  virtual void all_reduce(View x) = 0;
  // y[row] = x of rank 0 [row] | x of rank 1 [row] | …; widths[rank] elements from each. Where there is one row, x may
  // be its own part of y.
  virtual void all_gather(View x, const std::vector<int64_t>& widths, View y) = 0;
  // y := this rank's columns of the sum of x over the ranks, in the same order: x is [rows, sum of widths], y
  // [rows, widths[rank]], and rank r keeps the columns behind those of ranks 0 … r - 1. Where x has one row, y may be
  // those columns of x themselves; the rest of x is left as it is.
  virtual void reduce_scatter(View x, const std::vector<int64_t>& widths, View y) = 0;
  // One step of a ring, or of any other permutation: x goes to rank `to`, and y is what rank `from` sent, which must be
  // to this rank. Of one size and type on every rank; x and y are flat and do not overlap.
  virtual void send_receive(View x, int to, View y, int from) = 0;
  // Host memory: `bytes` from every rank, in rank order, into `all` (size() * bytes). For small things such as candidates.
  virtual void exchange(const void* mine, size_t bytes, void* all) = 0;

  // From any thread, any number of times: wakes every rank that waits or will wait; they throw peer_failed with `reason`.
  virtual void abort(const std::string& reason) noexcept = 0;
};

}  // namespace heddle
