// How threads wait for each other: a word that one of them changes while the others spin for a moment and then sleep.
// Rule: every wait ends at a deadline, and changing a word on which nobody sleeps makes no system call.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace heddle {

using Clock = std::chrono::steady_clock;

// Cores this process may run on: its affinity mask where the system has one.
int usable_cores();

// Tells the core that this is a spin loop.
inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Sleeping on an address (sleep_futex.cpp, sleep_portable.cpp). A sleeper may wake for no reason; a word that no longer
// holds `seen` is not slept on, so a change between the look and the sleep is never missed.
void sleep_on(std::atomic<uint32_t>& word, uint32_t seen, Clock::duration at_most);
void wake_sleepers(std::atomic<uint32_t>& word) noexcept;

class WaitWord {
 public:
  uint32_t load() const { return value_.load(std::memory_order_acquire); }

  // Returns the value before the change.
  uint32_t add(uint32_t amount) noexcept {
    const uint32_t before = value_.fetch_add(amount, std::memory_order_seq_cst);
    wake();
    return before;
  }
  uint32_t set_bits(uint32_t bits) noexcept {
    const uint32_t before = value_.fetch_or(bits, std::memory_order_seq_cst);
    wake();
    return before;
  }

  // Sleeps while the word holds `seen`, at most until the deadline; false when the deadline has passed.
  bool sleep_while(uint32_t seen, Clock::time_point deadline) {
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) return false;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);  // before the look at the word that sleep_on takes: see wake
    sleep_on(value_, seen, left);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return true;
  }

 private:
  // Either this sees the sleeper, or the sleeper's look comes after the change and sees that.
  void wake() noexcept {
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_sleepers(value_);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace heddle
