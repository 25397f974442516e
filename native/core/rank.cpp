#include "core/rank.h"

#if defined(__linux__)
#include <pthread.h>
#endif

#include <algorithm>
#include <thread>
#include <utility>

#include "core/error.h"

namespace heddle {

namespace {

constexpr size_t kMostRuns = 2;                       // under way: one at work, one behind it
// How long a rank looks for the next step before it waits for the last one, which also looks for failed peers. A caller
// that is at it answers a step with the next within less.
constexpr auto kLookForRun = std::chrono::milliseconds(2);

void name_this_thread(int rank) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), ("heddle-rank-" + std::to_string(rank)).substr(0, 15).c_str());
#else
  (void)rank;
#endif
}

[[noreturn]] void gone(const char* where, const char* what, int64_t id) {
  throw Error(ErrorCode::closed, std::string(where) + ": expected a " + what + ", got the id " + std::to_string(id) +
                                     " of none (disposed?)");
}

// A tensor that is counted as long as it lives, which may be longer than its id: programs hold tensors too.
std::shared_ptr<Tensor> counted(Tensor tensor, std::atomic<uint64_t>& counter) {
  auto owned = std::make_unique<Tensor>(std::move(tensor));
  const uint64_t bytes = static_cast<uint64_t>(owned->count()) * size_of(owned->dtype);
  counter.fetch_add(bytes, std::memory_order_relaxed);
  return {owned.release(), [bytes, &counter](Tensor* dead) {
            delete dead;
            counter.fetch_sub(bytes, std::memory_order_relaxed);
          }};
}

}  // namespace

Rank::Rank(int index, std::shared_ptr<GroupState> group)
    : index_(index), group_(std::move(group)), seat_(group_->seat(index)) {
  runs_.reserve(kMostRuns);
}

// The programs go with the rank. Tensors count for themselves.
Rank::~Rank() { seat_.counters.workspace_bytes.store(0, std::memory_order_relaxed); }

void Rank::live(int index, std::shared_ptr<GroupState> group) noexcept {
  group->enter_rank_thread();
  RankSeat& seat = group->seat(index);
  try {
    name_this_thread(index);
    Rank(index, group).serve();
  } catch (...) {  // outside any message: the rank is lost, and says so to all who wait for it
    const Failure failure = current_failure(index);
    group->set_cause(failure);
    seat.communicator->abort(failure.message);
    seat.queue.close();
    for (const RankQueue::Item& item : seat.queue.drain()) item.pending->fail(index, failure);
  }
  seat.exited.add(1);
}

void Rank::serve() {
  while (const std::optional<RankQueue::Item> item = seat_.queue.front()) {
    if (item->message && std::holds_alternative<RunProgram>(*item->message)) {
      answer_runs(*item);
    } else {
      answer(*item);
      done();
    }
  }
}

// The first message of the queue was answered.
void Rank::done() noexcept {
  if (!seat_.queue.has_more()) files_.close_all();
  seat_.queue.pop();
}

void Rank::answer(const RankQueue::Item& item) noexcept {
  out_of_step_ = false;
  try {
    if (std::optional<Failure> refused = refusal(item.message.get()))
      return item.pending->fail(index_, std::move(*refused));
    item.pending->succeed(index_, handle(item));
  } catch (...) {
    item.pending->fail(index_, settle_failure(current_failure(index_)));
  }
}

// Steps that follow each other: the next is submitted while the device works on the last, where its program can do that.
void Rank::answer_runs(const RankQueue::Item& first) noexcept {
  start(first);
  while (!runs_.empty()) {
    if (may_start_another()) {
      if (const std::optional<RankQueue::Item> next = next_run()) start(*next);
    }
    finish_oldest();
    done();
  }
}

void Rank::start(const RankQueue::Item& item) noexcept {
  Run run{item, nullptr, std::nullopt, false};
  out_of_step_ = false;
  try {
    run.failure = refusal(item.message.get());
    if (!run.failure) run.program = &submit(std::get<RunProgram>(*item.message));
  } catch (...) {
    run.failure = current_failure(index_);
    run.out_of_step = out_of_step_;
  }
  runs_.push_back(std::move(run));
}

// Answers it. Where it fails after all, the steps behind it are lost too.
void Rank::finish_oldest() noexcept {
  Run run = std::move(runs_.front());
  runs_.erase(runs_.begin());
  out_of_step_ = run.out_of_step;
  try {
    if (!run.failure && !run.program) run.failure = refusal(run.item.message.get());
    if (!run.failure) {
      out_of_step_ = true;
      RunResult result = run.program->finish(group_->cancelled());
      return run.item.pending->succeed(index_, index_ == 0 ? Result(std::move(result)) : Result());
    }
  } catch (...) {
    run.failure = current_failure(index_);
    for (Run& later : runs_) later.program = nullptr;
  }
  run.item.pending->fail(index_, settle_failure(std::move(*run.failure)));
}

// Nothing is started behind a failure that nobody else knows of yet.
bool Rank::may_start_another() const noexcept {
  return runs_.size() < kMostRuns && runs_.back().program && runs_.back().program->overlaps();
}

// The step to submit next, if it is there or comes while the device is at work.
std::optional<RankQueue::Item> Rank::next_run() const noexcept {
  constexpr int kPausesPerLook = 16;
  const auto end = Clock::now() + kLookForRun;
  for (bool last_look = false;; last_look = Clock::now() > end) {
    if (std::optional<RankQueue::Item> next = seat_.queue.behind(runs_.size())) {
      if (!overlaps(*next)) next.reset();
      return next;
    }
    if (last_look || runs_.front().program->ready() || group_->cancelled().load()) return std::nullopt;
    for (int i = 0; i < kPausesPerLook; ++i) cpu_pause();
    std::this_thread::yield();                        // whoever brings the next step may need this core
  }
}

bool Rank::overlaps(const RankQueue::Item& item) const noexcept {
  const auto* run = item.message ? std::get_if<RunProgram>(item.message.get()) : nullptr;
  if (!run) return false;
  const auto found = programs_.find(run->id);
  return found != programs_.end() && found->second.program && found->second.program->overlaps();
}

// Why nothing is done for a message any more. Memory can always be given back.
std::optional<Failure> Rank::refusal(const Message* message) const {
  if (group_->cancelled().load()) return closed_failure(index_);
  if (message && std::holds_alternative<Dispose>(*message)) return std::nullopt;
  return group_->cause();
}

// Makes the group fail where its ranks are out of step, and gives what the rank answers.
Failure Rank::settle_failure(Failure failure) noexcept {
  if (group_->cancelled().load()) return failure.code == ErrorCode::peer_failed ? closed_failure(index_) : failure;
  if (out_of_step_) {
    group_->set_cause(failure);
    seat_.communicator->abort(failure.message);
  }
  return failure;
}

Result Rank::handle(const RankQueue::Item& item) {
  if (!item.message) return open(), Result{};
  const Message& message = *item.message;
  if (const auto* read_tensor = std::get_if<ReadTensor>(&message)) return read(*read_tensor);
  if (const auto* tensor = std::get_if<CreateTensor>(&message)) create(*tensor);
  if (const auto* program = std::get_if<CreateProgram>(&message)) create(*program, item.pending);
  if (const auto* disposed = std::get_if<Dispose>(&message)) dispose(*disposed);
  return {};
}

void Rank::open() {
  out_of_step_ = true;  // a group without one of its ranks is of no use
  backend_ = group_->create_backend(index_);
  seat_.device = backend_->description();
  seat_.device_known.store(true, std::memory_order_release);
  out_of_step_ = false;
}

void Rank::create(const CreateTensor& message) {
  expect_free(message.id);
  check_pieces(message, files_);
  const auto bytes = static_cast<size_t>(checked_count(message.shape, message.dtype)) * size_of(message.dtype);
  Tensor tensor{message.dtype, message.shape, message.role, backend_->allocate(std::max<size_t>(bytes, 1))};
  fill(*backend_->fill_target(tensor.buffer), message, files_, seat_.counters.file, group_->cancelled());
  auto& counter = message.role == TensorRole::cache ? seat_.counters.cache_bytes : seat_.counters.weight_bytes;
  tensors_[message.id] = counted(std::move(tensor), counter);
}

void Rank::create(const CreateProgram& message, const std::shared_ptr<Pending>& creation) {
  expect_free(message.id);
  try {
    auto program = std::make_unique<Program>(message, tensors_, *backend_, *seat_.communicator);
    const size_t bytes = program->workspace_bytes();
    programs_[message.id] = {std::move(program), creation, {}};
    seat_.counters.workspace_bytes.fetch_add(bytes, std::memory_order_relaxed);
  } catch (...) {
    programs_[message.id] = {nullptr, creation, current_failure(index_)};
    throw;
  }
}

void Rank::expect_free(int64_t id) const {
  if (tensors_.count(id) == 0 && programs_.count(id) == 0) return;
  throw Error(ErrorCode::invalid_argument, "Rank: expected an id that is not in use, got " + std::to_string(id));
}

Program& Rank::submit(const RunProgram& message) {
  const auto found = programs_.find(message.id);
  if (found == programs_.end()) gone("RunProgram", "program", message.id);
  ProgramEntry& entry = found->second;
  if (!entry.program) {
    wait_for_peers(*entry.creation);
    out_of_step_ = !entry.creation->failed_everywhere();
    throw Error(entry.failure.code, entry.failure.message);
  }
  if (!message.step) throw Error(ErrorCode::invalid_argument, "RunProgram: expected a step, got none");
  try {
    entry.program->start(*message.step, group_->cancelled());
    return *entry.program;
  } catch (...) {
    out_of_step_ = entry.program->entered();
    throw;
  }
}

// The peers answer a creation without this rank's help: whatever comes before it in their queues is done here already.
void Rank::wait_for_peers(const Pending& creation) const {
  while (!creation.complete() && !group_->cancelled().load())
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

Result Rank::read(const ReadTensor& message) {
  const auto found = tensors_.find(message.id);
  if (found == tensors_.end()) gone("ReadTensor", "tensor", message.id);
  const Tensor& tensor = *found->second;
  const auto count = static_cast<size_t>(tensor.count());
  HostMatrix matrix{std::vector<float>(count), tensor.shape};
  if (count == 0) return matrix;
  if (tensor.dtype == DType::float32) {
    backend_->download(matrix.data.data(), tensor.buffer.data(), count * sizeof(float));
  } else {
    std::vector<uint16_t> raw(count);
    backend_->download(raw.data(), tensor.buffer.data(), count * sizeof(uint16_t));
    convert(raw.data(), tensor.dtype, matrix.data.data(), DType::float32, count);
  }
  return matrix;
}

void Rank::dispose(const Dispose& message) {
  for (const int64_t id : message.ids) {
    tensors_.erase(id);
    const auto found = programs_.find(id);
    if (found == programs_.end()) continue;
    if (found->second.program)
      seat_.counters.workspace_bytes.fetch_sub(found->second.program->workspace_bytes(), std::memory_order_relaxed);
    programs_.erase(found);
  }
}

}  // namespace heddle
