// How a program uses its executor, the backend's own or the one that goes node by node: which errors leave the ranks in step.
#include "core/executor.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "comm/local/local.h"
#include "core/compiled_node.h"
#include "core/program.h"
#include "fake_backend.h"
#include "test.h"

namespace heddle::test {
namespace {

const std::atomic<bool> kNotCancelled{false};

Node node(Op op, std::vector<int32_t> inputs, std::map<std::string, std::string> texts) {
  Node made;
  made.op = op;
  made.inputs = std::move(inputs);
  made.width = 4;
  made.texts = std::move(texts);
  return made;
}

// y = activation(x), where the fake backend has its hook.
CreateProgram message() {
  CreateProgram program;
  program.max_tokens = 8;
  program.max_sequences = 2;
  program.nodes = {node(Op::input, {}, {{"name", "x"}}), node(Op::activation, {0}, {{"kind", "relu"}}),
                   node(Op::output, {1}, {{"name", "y"}})};
  return program;
}

Step one_token() {
  Step step;
  step.tokens = step.positions = {0};
  step.sequence_starts = {0, 1};
  step.slots = {0};
  step.inputs["x"] = {{1, 2, 3, 4}, {1, 4}};
  return step;
}

// What a backend's own executor was asked for, and how it answers.
struct Recording {
  ProgramPlan plan;
  int started = 0;
  int finished = 0;
  std::function<void()> on_start = [] {};
};

class RecordingExecutor final : public Executor {
 public:
  explicit RecordingExecutor(Recording& recording) : recording_(recording) {}

  size_t workspace_bytes() const override { return 4711; }
  bool overlaps() const override { return true; }
  void start(const Step&, const std::atomic<bool>&) override {
    recording_.on_start();
    ++recording_.started;
  }
  RunResult finish(const std::atomic<bool>&) override { return {{++recording_.finished}, {}}; }

 private:
  Recording& recording_;
};

class RecordingBackend final : public FakeBackend {
 public:
  explicit RecordingBackend(Recording& recording) : FakeBackend(0, std::make_shared<Hook>(), 0), recording_(recording) {}
  std::unique_ptr<Executor> compile(const ProgramPlan& plan, Communicator&) override {
    recording_.plan = plan;
    return std::make_unique<RecordingExecutor>(recording_);
  }

 private:
  Recording& recording_;
};

}  // namespace

HEDDLE_TEST(executor_of_the_backend_runs_the_program) {
  const auto communicators = comm::create_local(1);
  Recording recording;
  RecordingBackend backend(recording);                // without memory: a workspace is the executor's business
  Program program(message(), {}, backend, *communicators[0]);
  check(recording.plan.max_tokens == 8 && recording.plan.max_sequences == 2, "the limits");
  check(recording.plan.nodes.size() == 3 && recording.plan.nodes[1]->op == Op::activation && recording.plan.nodes[1]->width == 4,
        "the nodes, compiled");
  check(program.workspace_bytes() == 4711 && program.overlaps(), "the executor speaks for the program");
  program.start(one_token(), kNotCancelled);
  program.start(one_token(), kNotCancelled);
  check(program.finish(kNotCancelled).tokens == std::vector<int32_t>{1}, "the oldest first");
  check(program.finish(kNotCancelled).tokens == std::vector<int32_t>{2}, "then the other");
  check(program.run(one_token(), kNotCancelled).tokens == std::vector<int32_t>{3}, "run is both");

  Step bad = one_token();
  bad.inputs.clear();
  check_throws(ErrorCode::invalid_argument, [&] { program.start(bad, kNotCancelled); }, "a step that does not pass the checks");
  check(recording.started == 3, "does not reach the executor");
}

HEDDLE_TEST(executor_that_refuses_a_step_leaves_the_ranks_in_step) {
  const auto communicators = comm::create_local(1);
  Recording recording;
  RecordingBackend backend(recording);
  Program program(message(), {}, backend, *communicators[0]);
  for (const auto& [code, entered] : {std::pair{ErrorCode::invalid_argument, false}, std::pair{ErrorCode::device_failed, true},
                                      std::pair{ErrorCode::closed, true}}) {
    recording.on_start = [code = code] { throw Error(code, "start"); };
    check_throws(code, [&] { program.start(one_token(), kNotCancelled); });
    check(program.entered() == entered, name_of(code), " from start");
  }
}

HEDDLE_TEST(executor_that_goes_node_by_node_refuses_before_the_first_node_alone) {
  const auto communicators = comm::create_local(1);
  const auto hook = std::make_shared<Hook>();
  FakeBackend backend(0, hook, 1 << 20);
  Program program(message(), {}, backend, *communicators[0]);
  check(!program.overlaps() && program.workspace_bytes() > 0, "one step at a time, in a workspace");
  *hook = [](int) { throw Error(ErrorCode::invalid_argument, "a kernel"); };
  check_throws(ErrorCode::invalid_argument, [&] { program.run(one_token(), kNotCancelled); }, "a kernel that refuses");
  check(program.entered(), "the nodes before it ran, perhaps collectives");
  *hook = nullptr;
  check(program.run(one_token(), kNotCancelled).outputs.at("y").data == std::vector<float>{1, 2, 3, 4}, "nothing stays of the error");
}

}  // namespace heddle::test
