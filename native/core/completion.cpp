#include "core/completion.h"

#include <algorithm>
#include <new>

namespace heddle {

namespace {

int weight_of(ErrorCode code) {
  if (code == ErrorCode::peer_failed) return 0;
  if (code == ErrorCode::closed) return 1;
  return 2;
}

}  // namespace

Failure current_failure(int rank) noexcept {
  try {
    try {
      throw;
    } catch (const Error& error) {
      return {error.code(), error.what(), rank};
    } catch (const std::bad_alloc&) {
      return {ErrorCode::out_of_memory, "rank " + std::to_string(rank) + ": the system has no memory left", rank};
    } catch (const std::exception& error) {
      return {ErrorCode::device_failed, "rank " + std::to_string(rank) + ": " + error.what(), rank};
    } catch (...) {
      return {ErrorCode::device_failed, "rank " + std::to_string(rank) + ": unknown exception", rank};
    }
  } catch (...) {  // no memory for the text
    return {ErrorCode::out_of_memory, {}, rank};
  }
}

bool tells_more(const Failure& failure, const Failure& other) {
  const int weight = weight_of(failure.code);
  const int other_weight = weight_of(other.code);
  if (weight != other_weight) return weight > other_weight;
  return failure.code == other.code && failure.rank < other.rank;  // the same everywhere: rank 0 speaks for all
}

void deliver(const OnCompletion& on_completion, Completion completion) noexcept {
  try {
    on_completion(std::move(completion));
  } catch (...) {
    // The receiver's own trouble: the rank goes on.
  }
}

Pending::Pending(int64_t ticket, std::vector<bool> asked, const OnCompletion& on_completion)
    : open_(std::move(asked)),
      remaining_(static_cast<size_t>(std::count(open_.begin(), open_.end(), true))),
      first_asked_(static_cast<int>(std::find(open_.begin(), open_.end(), true) - open_.begin())),
      on_completion_(on_completion) {
  completion_.ticket = ticket;
}

void Pending::succeed(int rank, Result result) noexcept { answer(rank, std::nullopt, std::move(result)); }

void Pending::fail(int rank, Failure failure) noexcept { answer(rank, std::move(failure), {}); }

void Pending::answer(int rank, std::optional<Failure> failure, Result result) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!open_[static_cast<size_t>(rank)]) return;
    open_[static_cast<size_t>(rank)] = false;
    if (!failure) {
      ++successes_;
      if (rank == first_asked_) completion_.result = std::move(result);
    } else if (!completion_.failure || tells_more(*failure, *completion_.failure)) {
      completion_.failure = std::move(failure);
    }
    if (--remaining_ > 0) return;
  }
  deliver(on_completion_, std::move(completion_));
}

bool Pending::complete() const {
  const std::lock_guard lock(mutex_);
  return remaining_ == 0;
}

bool Pending::failed_everywhere() const {
  const std::lock_guard lock(mutex_);
  return successes_ == 0;
}

}  // namespace heddle
