// What the ranks of a local communicator share: the barrier, a seat for each rank, and the reason of an abort.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "comm/local/barrier.h"
#include "comm/local/local.h"

namespace heddle::comm {

// Up to here a rank copies its part into its seat and one barrier is enough; above, two barriers and half the traffic
// are faster:
constexpr size_t kStagingBytes = 4 * 1024;

// What one rank shows to the others.
struct alignas(128) Seat {
  std::atomic<void*> data{nullptr};                   // its buffer of the current large collective
  std::atomic<bool> touching{false};                  // it may be reading or writing the buffers of others
  std::atomic<int> receiver[2] = {};                  // to whom it sends, in even and odd collectives
  std::atomic<uint64_t> entered{0};                   // numbers of collectives, for the message of a timeout
  std::atomic<uint64_t> finished{0};
  alignas(64) std::byte staging[2][kStagingBytes];    // of even and odd collectives: peers may still read the last one
};

class Hub {
 public:
  Hub(int size, const LocalOptions& options);

  int size() const { return size_; }
  std::chrono::milliseconds timeout() const { return timeout_; }
  Barrier& barrier() { return barrier_; }
  Seat& seat(int rank) { return seats_[static_cast<size_t>(rank)]; }

  bool aborted() const { return aborted_.load(std::memory_order_seq_cst); }
  std::string reason() const;
  void abort(const std::string& reason) noexcept;     // the first reason stays

  // After an abort: returns when no peer of `rank` touches the memory of others any more. Peers check for the abort
  // after they have said that they touch, and while they do they run a plain copy or sum, so the wait is short.
  void retreat(int rank);

 private:
  int size_;
  std::chrono::milliseconds timeout_;
  Barrier barrier_;
  std::unique_ptr<Seat[]> seats_;
  std::atomic<bool> aborted_{false};
  mutable std::mutex reason_mutex_;                   // of failures only
  std::string reason_;
};

}  // namespace heddle::comm
