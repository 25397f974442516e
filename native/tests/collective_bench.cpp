// Times the collectives of the local communicator alone, one pinned thread per rank: collective_bench [ranks] [--corrupt].
// Lines on stdin and answers: collective_question.h. Rule: every input is written anew before each call, so that data really cross cores,
// the time of that writing is taken off, and every element of the last results is checked.
#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <thread>

#include "comm/local/local.h"
#include "core/error.h"
#include "tests/collective_data.h"
#include "tests/pin_to.h"

namespace heddle::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kBatchSeconds = 2e-3;                // at least a call
constexpr double kTotalSeconds = 0.5;                 // about, where calls are long
constexpr int kFewestBatches = 3, kMostBatches = 31;  // a figure is the median batch
constexpr double kGuessedBytesPerSecond = 2e9, kGuessedLatency = 5e-7;

// How often every rank calls: the same on all of them, so guessed from the size alone.
struct Plan {
  int turns;                                          // in a batch
  int batches;

  explicit Plan(const Question& asked) {
    const double guess = kGuessedLatency + static_cast<double>(asked.bytes()) * asked.ranks / 2 / kGuessedBytesPerSecond;
    turns = std::max(1, static_cast<int>(kBatchSeconds / guess));
    batches = std::clamp(static_cast<int>(kTotalSeconds / (turns * guess)), kFewestBatches, kMostBatches);
  }
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Seconds of one turn of `body`.
template <class Body>
double seconds_of(const Plan& plan, Body body) {
  std::vector<double> batches;
  for (int batch = 0; batch < plan.batches; ++batch) {
    const auto start = Clock::now();
    for (int turn = 0; turn < plan.turns; ++turn) body();
    batches.push_back(std::chrono::duration<double>(Clock::now() - start).count() / plan.turns);
  }
  return median(std::move(batches));
}

using Memory = std::unique_ptr<std::byte, decltype(&std::free)>;

// As a workspace is: aligned, in huge pages where the system gives them; touched first by the rank's thread.
Memory memory_for(int64_t count, DType dtype) {
  constexpr size_t kAlignment = size_t{2} << 20;
  if (count == 0) return {nullptr, &std::free};
  const size_t bytes = static_cast<size_t>(count) * size_of(dtype);
  const size_t alignment = bytes < kAlignment ? 4096 : kAlignment;
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)), &std::free);
  if (!memory) throw Error(ErrorCode::out_of_memory, "collective bench: no memory for " + std::to_string(bytes) + " bytes");
#if defined(MADV_HUGEPAGE)
  if (bytes >= kAlignment) madvise(memory.get(), bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory.get(), 0, bytes);
  return memory;
}

class RankRun {
 public:
  RankRun(Communicator& communicator, const Question& asked, const CollectiveData& data)
      : communicator_(communicator), asked_(asked), data_(data), first_(memory_for(first_buffer(asked), asked.dtype)),
        second_(memory_for(second_buffer(asked), asked.dtype)), views_(views_of(asked, communicator.rank(), first_.get(), second_.get())),
        widths_(static_cast<size_t>(asked.ranks), asked.part) {}

  Answer run() {
    const Plan plan(asked_);
    const int warm = plan.turns > 1 ? 3 : 1;
    for (int i = 0; i < warm; ++i) produce(), call();
    const double produce_only = seconds_of(plan, [&] { produce(); });
    produce(), call();                                // ranks start together
    const double both = seconds_of(plan, [&] { produce(), call(); });
    if (asked_.corrupt && communicator_.rank() == 0) data_.corrupt(views_.y.data);
    Answer answer;
    answer.microseconds = std::max(both - produce_only, 0.0) * 1e6;
    answer.wrong = data_.count_wrong(communicator_.rank(), views_.y.data);
    return answer;
  }

 private:
  void produce() {
    data_.produce(communicator_.rank(), views_.x.data, asked_.input_count());
    __asm__ volatile("" : : "r"(views_.x.data) : "memory");
  }
  void call() { call_collective(communicator_, asked_, views_, widths_); }

  Communicator& communicator_;
  const Question& asked_;
  const CollectiveData& data_;
  Memory first_;
  Memory second_;
  CollectiveViews views_;
  std::vector<int64_t> widths_;
};

Answer run_rank(Communicator& communicator, const Question& asked, const CollectiveData& data) {
  pin_to(communicator.rank());
  try {
    return RankRun(communicator, asked, data).run();
  } catch (const Error& error) {
    communicator.abort(error.what());
    return {0, 0, error.what()};
  }
}

Answer run(const Question& asked) {
  auto communicators = comm::create_local(asked.ranks);
  const CollectiveData data(asked);
  std::vector<Answer> answers(communicators.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back([&, rank] { answers[rank] = run_rank(*communicators[rank], asked, data); });
  }
  for (std::thread& thread : threads) thread.join();
  Answer all;
  for (const Answer& answer : answers) {
    all.microseconds = std::max(all.microseconds, answer.microseconds);  // the slowest rank is what a step waits for
    all.wrong += answer.wrong;
    if (all.error.empty()) all.error = answer.error;
  }
  return all;
}

}  // namespace
}  // namespace heddle::test

int main(int argc, char** argv) {
  using namespace heddle::test;
  const bool corrupt = argc > 2 && std::strcmp(argv[2], "--corrupt") == 0;
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  if (ranks < 1 || argc > 2 + corrupt) {
    std::fprintf(stderr, "usage: collective_bench [ranks] [--corrupt]\n");
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::string trouble;
    Question asked = parse_question(line, ranks, trouble);
    if (trouble.empty() && asked.graph) trouble = "expected eager, got graph: there are none on a CPU";
    asked.corrupt = corrupt;
    print_answer(asked, trouble.empty() ? run(asked) : Answer{0, 0, trouble});
  }
  return 0;
}
