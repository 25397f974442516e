// Times collectives among GPUs, one thread a rank: collective_bench <local|nccl> <ordinal,ordinal,…> [--corrupt].
// Lines on stdin and answers: collective_question.h; and "memory", what the first GPU's memory gives to a kernel that reads. Ranks that share a GPU (an ordinal given twice) tell about kernels and protocol, not
// about NVLink: no byte leaves the GPU.
#include <barrier>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>

#include "collective_run.h"
#include "comm/nccl/nccl.h"
#include "cuda/dynlib.h"
#if !defined(HEDDLE_CUDA_EMULATED)
#include "read_bandwidth.h"
#endif
#include "rank_threads.h"

namespace heddle::test {

// The registry of test.h is not part of this program.
void record_failure(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

namespace {

// Ranks that live as long as the program: NCCL takes seconds to start.
class Bench {
 public:
  Bench(DeviceCommunicators communicators, std::vector<int> ordinals)
      : communicators_(std::move(communicators)), ordinals_(std::move(ordinals)), answers_(ordinals_.size()),
        turn_(static_cast<std::ptrdiff_t>(ordinals_.size()) + 1) {
    for (size_t rank = 0; rank < ordinals_.size(); ++rank) threads_.emplace_back([this, rank] { live(rank); });
    turn_.arrive_and_wait();                          // all are attached, or say why not
  }
  ~Bench() {
    asked_.reset();
    turn_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  Answer ask(const Question& asked) {
    asked_ = asked;
    data_.emplace(asked);
    turn_.arrive_and_wait();
    turn_.arrive_and_wait();
    Answer all;
    for (const Answer& answer : answers_) {
      all.microseconds = std::max(all.microseconds, answer.microseconds);
      all.wrong += answer.wrong;
      if (all.error.empty()) all.error = answer.error;
    }
    return all;
  }

 private:
  // An error stays the answer to all that follows: its communicator is aborted.
  void live(size_t rank) {
    Answer& answer = answers_[rank];
    cuda::DeviceCommunicator& communicator = *communicators_[rank];
    std::optional<cuda::Device> device;
    const auto guarded = [&](const std::function<void()>& body) {
      if (!answer.error.empty()) return;
      try {
        body();
      } catch (const std::exception& error) {
        answer = {0, 0, error.what()};
        communicator.abort(error.what());
      }
    };
    guarded([&] {
      device.emplace(ordinals_[rank], static_cast<int>(rank));
      communicator.attach(*device);
      communicator.lockstep(true);
    });
    for (turn_.arrive_and_wait();; turn_.arrive_and_wait()) {
      turn_.arrive_and_wait();
      if (!asked_) break;
      guarded([&] { answer = CollectiveRun(*device, communicator, *asked_, *data_).run(CollectivePlan::for_bytes(asked_->bytes())); });
    }
    guarded([&] {
      wait_for(*device);
      communicator.barrier();                         // nobody's device goes while a peer may still reach it
    });
  }

  DeviceCommunicators communicators_;
  std::vector<int> ordinals_;
  std::vector<Answer> answers_;
  std::optional<Question> asked_;
  std::optional<CollectiveData> data_;
  std::barrier<> turn_;
  std::vector<std::thread> threads_;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

void answer_memory(int ordinal) {
#if defined(HEDDLE_CUDA_EMULATED)
  std::printf("{\"error\":\"expected a GPU, got the emulator, which has no bandwidth: device %d\"}\n", ordinal);
#else
  std::printf("{\"gigabytesPerSecond\":%.1f}\n", read_bandwidth(cuda::Device(ordinal)) / 1e9);
#endif
  std::fflush(stdout);
}

int answer_lines(Bench* bench, const std::string& reason, const std::vector<int>& ordinals, bool corrupt) {
  const auto ranks = static_cast<int>(ordinals.size());
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "memory") {
      answer_memory(ordinals.front());
      continue;
    }
    std::string trouble;
    Question asked = parse_question(line, ranks, trouble);
    asked.corrupt = corrupt;
    if (!bench) trouble = reason;
    print_answer(asked, trouble.empty() ? bench->ask(asked) : Answer{0, 0, trouble});
  }
  return 0;
}

int run(const std::string& name, const std::vector<int>& ordinals, bool corrupt) {
  const auto ranks = static_cast<int>(ordinals.size());
  if (name == "local") {
    Bench bench(local_communicators(ranks), ordinals);
    return answer_lines(&bench, "", ordinals, corrupt);
  }
  const char* folders = std::getenv("HEDDLE_CUDA_LIB_PATH");
  std::string text;
  const auto table = cuda::load_nccl(split(folders ? folders : "", ':'), text);
  if (!table) return answer_lines(nullptr, "NCCL: " + text, ordinals, corrupt);
  Bench bench(comm::create_nccl(*table, host_communicators(ranks)), ordinals);
  return answer_lines(&bench, "", ordinals, corrupt);
}

}  // namespace
}  // namespace heddle::test

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  std::vector<int> ordinals;
  for (const std::string& part : heddle::test::split(argc > 2 ? argv[2] : "", ',')) ordinals.push_back(std::atoi(part.c_str()));
  const bool corrupt = argc > 3 && std::strcmp(argv[3], "--corrupt") == 0;
  if ((name != "local" && name != "nccl") || ordinals.empty() || argc > 3 + corrupt) {
    std::fprintf(stderr, "usage: collective_bench <local|nccl> <ordinal,ordinal,...> [--corrupt]\n");
    return 2;
  }
  return heddle::test::run(name, ordinals, corrupt);
}
