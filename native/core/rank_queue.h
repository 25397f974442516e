// The FIFO of one rank: any thread pushes, the rank's thread takes. Messages at work stay in the queue until they are
// done, so that whoever closes a group can answer for a rank that hangs.
#pragma once
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "core/completion.h"
#include "core/message.h"
#include "core/wait.h"

namespace heddle {

class RankQueue {
 public:
  struct Item {
    std::shared_ptr<const Message> message;
    std::shared_ptr<Pending> pending;
  };

  // `spin`: how long an idle rank looks for work before it sleeps; zero where ranks outnumber cores.
  explicit RankQueue(Clock::duration spin) : spin_(spin) {}

  bool push(Item item);                               // false: closed, nothing was queued
  std::optional<Item> front();                        // waits; nothing once the queue is closed and empty
  std::optional<Item> behind(size_t count) const;     // the item after the first `count`, if it is there; never waits
  void pop();                                         // the item that front() gave is done
  bool has_more() const;                              // items beyond the one at work

  void close() noexcept;                              // items inside stay
  std::deque<Item> drain();

 private:
  void wait_for_change(uint32_t seen);

  const Clock::duration spin_;
  mutable std::mutex mutex_;
  std::deque<Item> items_;
  bool closed_ = false;
  WaitWord changes_;
};

}  // namespace heddle
