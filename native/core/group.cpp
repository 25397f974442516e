#include "core/group.h"

#include <thread>
#include <utility>

#include "core/error.h"
#include "core/rank.h"

namespace heddle {

namespace {

// Ends a group from a thread of its own, where the caller may not wait.
void finish_close_elsewhere(const std::shared_ptr<GroupState>& state, std::function<void()> then) {
  std::thread([state, then = std::move(then)] {
    state->finish_close();
    then();
  }).detach();
}

}  // namespace

RankGroup::RankGroup(GroupParts parts, int64_t ticket) : state_(std::make_shared<GroupState>(std::move(parts))) {
  start();
  post(ticket, std::vector<bool>(static_cast<size_t>(size()), true), std::vector<Shared>(static_cast<size_t>(size())));
}

RankGroup::~RankGroup() {
  close();
  if (!state_->on_rank_thread()) return;
  try {
    finish_close_elsewhere(state_, [] {});
  } catch (...) {
    state_->leave_threads();
  }
}

void RankGroup::start() {
  try {
    for (int rank = 0; rank < size(); ++rank) state_->seat(rank).thread = std::thread(Rank::live, rank, state_);
  } catch (const std::exception& error) {
    state_->begin_close();
    state_->finish_close();
    throw Error(ErrorCode::unavailable,
                "RankGroup: expected " + std::to_string(size()) + " threads, got: " + error.what());
  }
}

void RankGroup::submit(int64_t ticket, Message message) {
  if (std::holds_alternative<Close>(message)) return close_then_complete(ticket);
  const auto shared = std::make_shared<const Message>(std::move(message));
  const auto count = static_cast<size_t>(size());
  post(ticket, std::vector<bool>(count, true), std::vector<Shared>(count, shared));
}

void RankGroup::submit(int64_t ticket, std::vector<Message> messages) {
  const auto count = static_cast<size_t>(size());
  if (messages.size() != count) {
    throw Error(ErrorCode::invalid_argument,
                "RankGroup: expected " + std::to_string(count) + " messages, got " + std::to_string(messages.size()));
  }
  if (std::holds_alternative<Close>(messages.front())) return close_then_complete(ticket);
  std::vector<Shared> shared;
  for (Message& message : messages) shared.push_back(std::make_shared<const Message>(std::move(message)));
  post(ticket, std::vector<bool>(count, true), shared);
}

void RankGroup::submit_to(int64_t ticket, int rank, Message message) {
  if (rank < 0 || rank >= size()) {
    throw Error(ErrorCode::invalid_argument,
                "RankGroup: expected a rank below " + std::to_string(size()) + ", got " + std::to_string(rank));
  }
  if (std::holds_alternative<Close>(message)) return close_then_complete(ticket);
  std::vector<bool> asked(static_cast<size_t>(size()));
  std::vector<Shared> shared(static_cast<size_t>(size()));
  asked[static_cast<size_t>(rank)] = true;
  shared[static_cast<size_t>(rank)] = std::make_shared<const Message>(std::move(message));
  post(ticket, asked, shared);
}

void RankGroup::post(int64_t ticket, const std::vector<bool>& asked, const std::vector<Shared>& messages) {
  const auto pending = std::make_shared<Pending>(ticket, asked, state_->on_completion());
  std::vector<std::pair<int, Failure>> refused;
  {
    const std::lock_guard lock(submit_mutex_);
    for (int rank = 0; rank < size(); ++rank) {
      if (!asked[static_cast<size_t>(rank)]) continue;
      RankSeat& seat = state_->seat(rank);
      try {
        if (!seat.queue.push({messages[static_cast<size_t>(rank)], pending}))
          refused.emplace_back(rank, closed_failure(rank));
      } catch (...) {  // no memory: the other ranks may have the message and would wait for this one
        const Failure failure = current_failure(rank);
        state_->set_cause(failure);
        seat.communicator->abort(failure.message);
        refused.emplace_back(rank, failure);
      }
    }
  }
  for (auto& [rank, failure] : refused) pending->fail(rank, std::move(failure));
}

void RankGroup::close() noexcept {
  state_->begin_close();
  if (!state_->on_rank_thread()) state_->finish_close();
}

void RankGroup::close_then_complete(int64_t ticket) {
  state_->begin_close();
  const auto complete = [state = state_, ticket] { deliver(state->on_completion(), {ticket, std::nullopt, {}}); };
  try {
    finish_close_elsewhere(state_, complete);
  } catch (...) {  // no thread to be had: wait here
    if (!state_->on_rank_thread()) state_->finish_close();
    complete();
  }
}

std::vector<RankInfo> RankGroup::info() const {
  std::vector<RankInfo> all;
  for (int rank = 0; rank < size(); ++rank) {
    const RankSeat& seat = state_->seat(rank);
    const RankCounters& counters = seat.counters;
    RankInfo info;
    info.rank = rank;
    if (seat.device_known.load(std::memory_order_acquire)) info.device = seat.device;
    info.weight_bytes = counters.weight_bytes.load(std::memory_order_relaxed);
    info.cache_bytes = counters.cache_bytes.load(std::memory_order_relaxed);
    info.workspace_bytes = counters.workspace_bytes.load(std::memory_order_relaxed);
    info.file_bytes_read = counters.file.read.load(std::memory_order_relaxed);
    info.file_bytes_used = counters.file.used.load(std::memory_order_relaxed);
    all.push_back(std::move(info));
  }
  return all;
}

}  // namespace heddle
