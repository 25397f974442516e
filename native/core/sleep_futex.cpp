// Sleeping on an address by Linux futexes.
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <ctime>
#include <thread>

#include "core/wait.h"

namespace heddle {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

int usable_cores() {
  cpu_set_t cores;  // fails where there are more than 1024 of them
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void sleep_on(std::atomic<uint32_t>& word, uint32_t seen, Clock::duration at_most) {
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(at_most).count();
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(nanoseconds / 1000000000);
  timeout.tv_nsec = static_cast<long>(nanoseconds % 1000000000);
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, &timeout, nullptr, 0);
}

void wake_sleepers(std::atomic<uint32_t>& word) noexcept {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace heddle
