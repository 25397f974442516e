#include "comm/local/barrier.h"

#include <algorithm>
#include <thread>

namespace heddle::comm {

namespace {

constexpr uint32_t kAborted = 1;
constexpr uint32_t kArrival = 2;

// Sequence numbers wrap around; ranks are never more than one arrival apart.
bool reached(uint32_t word, uint32_t target) { return static_cast<int32_t>((word & ~kAborted) - target) >= 0; }

// The peer that is missing may be waiting for this very core: now and then it gets it. Where nobody waits a yield
// returns at once.
void spin_once(int pauses) {
  constexpr int kPausesPerYield = 128;
  if (pauses % kPausesPerYield == 0) {
    std::this_thread::yield();
  } else {
    cpu_pause();
  }
}

// Sleeps while the word holds `value`, at most for `slice`, and returns what counts of it: no more than the slice,
// since in a process that was stopped meanwhile the missing peer was stopped as well.
Clock::duration sleep_slice(WaitWord& word, uint32_t value, Clock::duration slice) {
  const auto start = Clock::now();
  word.sleep_while(value, start + slice);
  return std::min(Clock::now() - start, slice);
}

size_t parity(uint32_t arrivals) { return (arrivals / kArrival) & 1u; }

}  // namespace

Barrier::Barrier(int size, int spins, std::chrono::milliseconds timeout)
    : size_(size), spins_(spins), timeout_(timeout), cells_(std::make_unique<Cell[]>(static_cast<size_t>(size))) {}

void Barrier::arrive(int rank, uint64_t note) noexcept {
  Cell& cell = cells_[static_cast<size_t>(rank)];
  cell.arrivals += kArrival;
  cell.notes[parity(cell.arrivals)].store(note, std::memory_order_relaxed);
  cell.word.add(kArrival);
}

Barrier::Outcome Barrier::wait(int rank) {
  const uint32_t target = cells_[static_cast<size_t>(rank)].arrivals;
  int pauses = spins_;
  for (int peer = 0; peer < size_; ++peer) {
    const WaitWord& word = cells_[static_cast<size_t>(peer)].word;
    for (;;) {
      const uint32_t value = word.load();
      if (value & kAborted) return Outcome::aborted;
      if (reached(value, target)) break;
      if (--pauses < 0) return sleep_until_complete(rank);
      spin_once(pauses);
    }
  }
  return Outcome::complete;
}

Barrier::Outcome Barrier::sleep_until_complete(int rank) {
  const uint32_t target = cells_[static_cast<size_t>(rank)].arrivals;
  const Clock::duration slice = std::max<Clock::duration>(timeout_ / 16, std::chrono::milliseconds(1));
  Clock::duration left = timeout_;
  for (int peer = 0; peer < size_; ++peer) {
    WaitWord& word = cells_[static_cast<size_t>(peer)].word;
    for (;;) {
      const uint32_t value = word.load();
      if (value & kAborted) return Outcome::aborted;
      if (reached(value, target)) break;
      if (left <= Clock::duration::zero()) return Outcome::timed_out;
      left -= sleep_slice(word, value, slice);
    }
  }
  return Outcome::complete;
}

uint64_t Barrier::note_of(int peer, int rank) const noexcept {
  const uint32_t arrivals = cells_[static_cast<size_t>(rank)].arrivals;
  return cells_[static_cast<size_t>(peer)].notes[parity(arrivals)].load(std::memory_order_relaxed);
}

bool Barrier::caught_up(int peer, int rank) const noexcept {
  return reached(cells_[static_cast<size_t>(peer)].word.load(), cells_[static_cast<size_t>(rank)].arrivals);
}

void Barrier::abort() noexcept {
  for (int rank = 0; rank < size_; ++rank) cells_[static_cast<size_t>(rank)].word.set_bits(kAborted);
}

}  // namespace heddle::comm
