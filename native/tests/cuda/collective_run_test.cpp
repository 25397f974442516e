// The collective bench itself at tiny sizes: every collective is right, eager and in a graph, and a result that is damaged on purpose is
// counted. Times mean nothing here.
#include <atomic>
#include <cstdlib>

#include "collective_run.h"
#include "comm/nccl/nccl.h"
#include "cuda/dynlib.h"
#include "rank_threads.h"

namespace heddle::test {
namespace {

constexpr CollectivePlan kShort{2, 2};

void check_questions(DeviceCommunicators& communicators, const std::vector<int>& ordinals, const std::vector<std::string>& lines, bool corrupt) {
  const auto ranks = static_cast<int>(communicators.size());
  std::vector<Question> questions;
  for (const std::string& line : lines) {
    std::string trouble;
    questions.push_back(parse_question(line, ranks, trouble));
    questions.back().corrupt = corrupt;
    check(trouble.empty(), trouble);
  }
  std::vector<CollectiveData> data(questions.begin(), questions.end());
  std::vector<std::atomic<int64_t>> wrong(questions.size());
  on_ranks(communicators, ordinals, [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    for (size_t i = 0; i < questions.size(); ++i) {
      const Answer answer = CollectiveRun(device, communicator, questions[i], data[i]).run(kShort);
      wrong[i] += answer.wrong;
      check(answer.microseconds >= 0, lines[i], ": a time");
    }
  });
  for (size_t i = 0; i < questions.size(); ++i) {
    check(wrong[i] == (corrupt ? 1 : 0), lines[i], " at size ", ranks, ": expected ", corrupt ? 1 : 0, " wrong elements, got ", wrong[i].load());
  }
}

const std::vector<std::string> kQuestions = {
    "all_reduce 4096 float32 in eager",          "all_reduce 600000 bfloat16 in graph",   "all_gather 8192 bfloat16 out graph",
    "all_gather 8192 float32 in eager",          "reduce_scatter 8192 float32 out graph", "reduce_scatter 300000 bfloat16 in eager",
    "send_recv 100000 float32 out graph",        "send_recv 1024 float16 out eager"};

HEDDLE_TEST(collectives_bench_over_local) {
  for (const int size : {2, 3}) {
    for (const bool corrupt : {false, true}) {
      DeviceCommunicators communicators = local_communicators(size);
      check_questions(communicators, {}, kQuestions, corrupt);
    }
  }
}

#if defined(HEDDLE_CUDA_EMULATED)
HEDDLE_TEST(collectives_bench_over_nccl) {
  if (!std::getenv("HEDDLE_NCCL_LIB")) return;        // not started by scripts/native-tests.js
  setenv("HEDDLE_EMULATOR_DEVICES", "2", 1);
  std::string text;
  const auto table = cuda::load_nccl({}, text);
  if (check(table != nullptr, text)) {
    DeviceCommunicators communicators = comm::create_nccl(*table, host_communicators(2));
    check_questions(communicators, {0, 1}, kQuestions, false);
  }
  unsetenv("HEDDLE_EMULATOR_DEVICES");
}
#endif

}  // namespace
}  // namespace heddle::test
