// What the threads of a group share: the seats of its ranks, the first failure, and the way to an end.
// Lifetime rule: every thread holds it by shared_ptr, so a rank that hangs and is left behind keeps what it touches.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/communicator.h"
#include "core/completion.h"
#include "core/fill.h"
#include "core/rank_queue.h"

namespace heddle {

struct RankCounters {
  std::atomic<uint64_t> weight_bytes{0};
  std::atomic<uint64_t> cache_bytes{0};
  std::atomic<uint64_t> workspace_bytes{0};
  FileCounters file;
};

// One rank as other threads see it.
struct RankSeat {
  RankSeat(std::unique_ptr<Communicator> given, Clock::duration spin) : communicator(std::move(given)), queue(spin) {}

  const std::unique_ptr<Communicator> communicator;   // other threads: abort only
  RankQueue queue;
  RankCounters counters;
  std::string device;                                 // complete once device_known
  std::atomic<bool> device_known{false};
  WaitWord exited;                                    // 1: the thread is done, only its end remains
  std::thread thread;                                 // from the start on under GroupState::threads_mutex_
};

struct GroupParts {
  std::vector<std::unique_ptr<Communicator>> communicators;       // one per rank
  std::function<std::unique_ptr<Backend>(int rank)> create_backend;  // called on the rank's thread
  OnCompletion on_completion;
};

class GroupState {
 public:
  explicit GroupState(GroupParts parts);

  int size() const { return static_cast<int>(seats_.size()); }
  RankSeat& seat(int rank) { return *seats_[static_cast<size_t>(rank)]; }
  const OnCompletion& on_completion() const { return on_completion_; }
  std::unique_ptr<Backend> create_backend(int rank) const { return create_backend_(rank); }

  const std::atomic<bool>& cancelled() const { return cancelled_; }

  // The failure that made the group useless, if there was one; a later one replaces it only where it tells more.
  std::optional<Failure> cause() const;
  void set_cause(const Failure& failure) noexcept;

  void begin_close() noexcept;                        // ranks stop at once; never waits
  void finish_close() noexcept;  // waits for the threads up to a deadline, then leaves those that hang
  void leave_threads() noexcept;                      // waits for none

  // A rank's thread says whose it is; then on_rank_thread is true there.
  void enter_rank_thread() const noexcept;
  bool on_rank_thread() const noexcept;

 private:
  void answer_for(int rank) noexcept;

  std::vector<std::unique_ptr<RankSeat>> seats_;
  std::function<std::unique_ptr<Backend>(int)> create_backend_;
  OnCompletion on_completion_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex cause_mutex_;
  std::optional<Failure> cause_;
  std::mutex threads_mutex_;
};

Failure closed_failure(int rank);

}  // namespace heddle
