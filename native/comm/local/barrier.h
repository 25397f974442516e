// A barrier among the threads of a group: each rank advances its own word and looks at the words of the others.
// Rule: one cache line per rank, written by that rank alone (but for abort and sleepers), and no mutex.
#pragma once
#include <chrono>
#include <memory>

#include "core/wait.h"

namespace heddle::comm {

class Barrier {
 public:
  enum class Outcome { complete, aborted, timed_out };

  // `spins`: pauses before a waiting rank sleeps; 0 where ranks outnumber cores, so that a waiter never holds up a
  // worker.
  Barrier(int size, int spins, std::chrono::milliseconds timeout);

  // `note` travels with the arrival, in the same cache line.
  void arrive(int rank, uint64_t note) noexcept;
  // Until every rank has arrived as often as this one.
  Outcome wait(int rank);
  // What `peer` gave with the arrival that `rank` waited for last; valid until `rank` arrives again.
  uint64_t note_of(int peer, int rank) const noexcept;
  // False while `peer` has arrived less often than `rank`.
  bool caught_up(int peer, int rank) const noexcept;

  // Every wait, now and later, ends with `aborted`.
  void abort() noexcept;

 private:
  struct alignas(128) Cell {                          // 128: neighbours of a line are prefetched with it
    WaitWord word;                                    // 2 * arrivals, and kAborted
    uint32_t arrivals = 0;                            // 2 * arrivals again, for the owner alone
    std::atomic<uint64_t> notes[2] = {};              // of the even and odd arrivals: peers may still read the last one
  };

  Outcome sleep_until_complete(int rank);

  int size_;
  int spins_;
  std::chrono::milliseconds timeout_;
  std::unique_ptr<Cell[]> cells_;
};

}  // namespace heddle::comm
