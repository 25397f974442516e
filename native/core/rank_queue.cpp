#include "core/rank_queue.h"

#include <thread>
#include <utility>

namespace heddle {

bool RankQueue::push(Item item) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    items_.push_back(std::move(item));
  }
  changes_.add(1);
  return true;
}

std::optional<RankQueue::Item> RankQueue::front() {
  for (;;) {
    const uint32_t seen = changes_.load();
    {
      const std::lock_guard lock(mutex_);
      if (!items_.empty()) return items_.front();
      if (closed_) return std::nullopt;
    }
    wait_for_change(seen);
  }
}

std::optional<RankQueue::Item> RankQueue::behind(size_t count) const {
  const std::lock_guard lock(mutex_);
  if (items_.size() <= count) return std::nullopt;
  return items_[count];
}

void RankQueue::pop() {
  Item done;  // freed outside the lock: a message may hold much memory
  const std::lock_guard lock(mutex_);
  if (items_.empty()) return;  // drained meanwhile
  done = std::move(items_.front());
  items_.pop_front();
}

bool RankQueue::has_more() const {
  const std::lock_guard lock(mutex_);
  return items_.size() > 1;
}

void RankQueue::close() noexcept {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changes_.add(1);
}

std::deque<RankQueue::Item> RankQueue::drain() {
  const std::lock_guard lock(mutex_);
  return std::exchange(items_, {});
}

void RankQueue::wait_for_change(uint32_t seen) {
  constexpr int kPausesPerLook = 32;                  // reading the clock costs as much as a pause
  constexpr auto kSleep = std::chrono::hours(1);      // then it looks again, and sleeps again
  if (spin_ > Clock::duration::zero()) {
    const auto end = Clock::now() + spin_;
    do {
      for (int i = 0; i < kPausesPerLook; ++i) {
        if (changes_.load() != seen) return;
        cpu_pause();
      }
      std::this_thread::yield();                      // whoever brings the next work may need this core
    } while (Clock::now() < end);
  }
  changes_.sleep_while(seen, Clock::now() + kSleep);
}

}  // namespace heddle
