// Sleeping on an address where there are no futexes: addresses share a few condition variables.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/wait.h"

namespace heddle {

namespace {

struct Bed {
  std::mutex mutex;
  std::condition_variable condition;
};

// Never destroyed: a rank that was left behind may still sleep here while the process ends.
Bed& bed_of(const void* address) {
  static auto& beds = *new std::array<Bed, 64>();
  return beds[(reinterpret_cast<uintptr_t>(address) >> 6) % beds.size()];
}

}  // namespace

int usable_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

void sleep_on(std::atomic<uint32_t>& word, uint32_t seen, Clock::duration at_most) {
  Bed& bed = bed_of(&word);
  std::unique_lock lock(bed.mutex);
  if (word.load(std::memory_order_seq_cst) == seen) bed.condition.wait_for(lock, at_most);
}

void wake_sleepers(std::atomic<uint32_t>& word) noexcept {
  Bed& bed = bed_of(&word);
  const std::lock_guard lock(bed.mutex);  // a sleeper between its look and its sleep holds it
  bed.condition.notify_all();
}

}  // namespace heddle
