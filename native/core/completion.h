// What comes back for a ticket: one completion, when every rank that was asked has answered.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/message.h"

namespace heddle {

struct Failure {
  ErrorCode code = ErrorCode::device_failed;
  std::string message;
  int rank = -1;                                      // -1: not of one rank
};

struct Completion {
  int64_t ticket = 0;
  std::optional<Failure> failure;
  Result result;                                      // of the first rank that was asked
};

// Called on whatever thread gave the last answer. Must not wait for a rank; what it throws is dropped.
using OnCompletion = std::function<void(Completion&&)>;

void deliver(const OnCompletion& on_completion, Completion completion) noexcept;

// The exception being handled, as a Failure. Call it in a catch block.
Failure current_failure(int rank) noexcept;

// True where `failure` says more about the cause than `other`: peer_failed and closed only follow from something else.
bool tells_more(const Failure& failure, const Failure& other);

// The answers to one ticket. Of several failures the one that tells most is kept. Any thread.
class Pending {
 public:
  // `asked`: which ranks will answer; at least one.
  Pending(int64_t ticket, std::vector<bool> asked, const OnCompletion& on_completion);

  // A second answer of a rank, given for it when it hung, has no effect.
  void succeed(int rank, Result result) noexcept;
  void fail(int rank, Failure failure) noexcept;      // failure.rank: where it began, not who answers

  bool complete() const;
  bool failed_everywhere() const;                     // meaningful once complete

 private:
  void answer(int rank, std::optional<Failure> failure, Result result) noexcept;

  mutable std::mutex mutex_;
  std::vector<bool> open_;                            // ranks that have not answered
  size_t remaining_;
  size_t successes_ = 0;
  int first_asked_;
  Completion completion_;
  const OnCompletion& on_completion_;                 // outlives every ticket
};

}  // namespace heddle
