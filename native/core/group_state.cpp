#include "core/group_state.h"

#include <utility>

#include "core/wait.h"

namespace heddle {

namespace {

constexpr auto kIdleSpin =
    std::chrono::microseconds(50);  // between two steps of a decode nobody should have to be woken
constexpr auto kCloseDeadline = std::chrono::seconds(1);

thread_local const GroupState* thread_owner = nullptr;

}  // namespace

Failure closed_failure(int rank) { return {ErrorCode::closed, "RankGroup: the group is closed", rank}; }

GroupState::GroupState(GroupParts parts)
    : create_backend_(std::move(parts.create_backend)), on_completion_(std::move(parts.on_completion)) {
  const bool enough_cores = static_cast<int>(parts.communicators.size()) <= usable_cores();
  for (auto& communicator : parts.communicators) {
    seats_.push_back(std::make_unique<RankSeat>(std::move(communicator),
                                                enough_cores ? Clock::duration(kIdleSpin) : Clock::duration::zero()));
  }
}

std::optional<Failure> GroupState::cause() const {
  if (!failed_.load(std::memory_order_acquire)) return std::nullopt;
  const std::lock_guard lock(cause_mutex_);
  return cause_;
}

void GroupState::set_cause(const Failure& failure) noexcept {
  const std::lock_guard lock(cause_mutex_);
  try {
    if (!cause_ || tells_more(failure, *cause_)) cause_ = failure;
  } catch (...) {  // no memory for the text
    cause_ = Failure{failure.code, {}, failure.rank};
  }
  failed_.store(true, std::memory_order_release);
}

void GroupState::begin_close() noexcept {
  cancelled_.store(true, std::memory_order_seq_cst);
  for (const auto& seat : seats_) {
    seat->communicator->abort("the group was closed");
    seat->queue.close();
  }
}

void GroupState::finish_close() noexcept {
  const auto deadline = Clock::now() + kCloseDeadline;
  std::vector<int> hung;
  {
    const std::lock_guard lock(threads_mutex_);
    for (int rank = 0; rank < size(); ++rank) {
      RankSeat& seat = *seats_[static_cast<size_t>(rank)];
      if (!seat.thread.joinable()) continue;
      while (seat.exited.load() == 0 && seat.exited.sleep_while(0, deadline)) {
      }
      if (seat.exited.load() != 0) {
        seat.thread.join();
      } else {
        seat.thread.detach();
        hung.push_back(rank);
      }
    }
  }
  for (const int rank : hung) answer_for(rank);  // without the lock: a completion may close again
}

void GroupState::leave_threads() noexcept {
  const std::lock_guard lock(threads_mutex_);
  for (const auto& seat : seats_) {
    if (seat->thread.joinable()) seat->thread.detach();
  }
}

void GroupState::answer_for(int rank) noexcept {
  for (const RankQueue::Item& item : seat(rank).queue.drain()) item.pending->fail(rank, closed_failure(rank));
}

void GroupState::enter_rank_thread() const noexcept { thread_owner = this; }

bool GroupState::on_rank_thread() const noexcept { return thread_owner == this; }

}  // namespace heddle
