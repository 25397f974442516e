// Ranks whose executor has two steps under way: what is submitted when, answers in order, and errors and ends in the middle of both.
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/wait.h"
#include "fake_backend.h"
#include "rank_fixture.h"

namespace heddle::test {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kPlain = 200;                       // a program that does not overlap
constexpr int64_t kOther = 300;                       // another one that does
constexpr int64_t kPlainTokens = 7;                   // its limit, by which the backend knows it

using Probe = std::function<void(int rank, int step)>;

// What the executors of a group have in common: what they did, and where the test may step in. A step is known by the value of its
// input. Probes are set before the first step.
struct Script {
  Probe on_start = [](int, int) {};
  Probe on_finish = [](int, int) {};                  // before the sum over the ranks
  std::function<bool(int rank, int step)> ready = [](int, int) { return true; };

  void log(int rank, const char* event) {
    const std::lock_guard lock(mutex);
    events[rank].append(event).append(" ");
  }
  void log(int rank, const char* event, int number) {
    const std::lock_guard lock(mutex);
    events[rank].append(event).append(std::to_string(number)).append(" ");
  }
  std::string log_of(int rank) {
    const std::lock_guard lock(mutex);
    return events[rank];
  }

 private:
  std::mutex mutex;
  std::map<int, std::string> events;
};

// y = sum over the ranks of x, summed in `finish`.
class OverlapExecutor final : public Executor {
 public:
  OverlapExecutor(int rank, Script& script, Communicator& communicator) : rank_(rank), script_(script), communicator_(communicator) {}
  ~OverlapExecutor() override { script_.log(rank_, "end", static_cast<int>(under_way_.size())); }

  size_t workspace_bytes() const override { return 64; }
  bool overlaps() const override { return true; }
  bool ready() const override { return script_.ready(rank_, step_of(under_way_.front())); }

  void start(const Step& step, const std::atomic<bool>&) override {
    const HostMatrix& x = step.inputs.at("x");
    script_.log(rank_, "+", step_of(x));
    script_.on_start(rank_, step_of(x));
    under_way_.push_back(x);
    check(under_way_.size() <= 2, under_way_.size(), " steps under way");
  }

  RunResult finish(const std::atomic<bool>& cancelled) override {
    HostMatrix y = under_way_.front();
    script_.on_finish(rank_, step_of(y));
    if (cancelled) throw Error(ErrorCode::closed, "OverlapExecutor: closed");
    communicator_.all_reduce({y.data.data(), DType::float32, y.shape[0], y.shape[1]});
    script_.log(rank_, "-", step_of(under_way_.front()));
    under_way_.pop_front();
    RunResult result;
    if (rank_ == 0) result.outputs["y"] = std::move(y);
    return result;
  }

 private:
  static int step_of(const HostMatrix& x) { return static_cast<int>(x.data.front()); }

  const int rank_;
  Script& script_;
  Communicator& communicator_;
  std::deque<HostMatrix> under_way_;
};

class OverlapBackend final : public FakeBackend {
 public:
  OverlapBackend(int rank, std::shared_ptr<Script> script)
      : FakeBackend(rank, std::make_shared<Hook>(), size_t{1} << 20), number_(rank), script_(std::move(script)) {}

  std::unique_ptr<Executor> compile(const ProgramPlan& plan, Communicator& communicator) override {
    if (plan.max_tokens == kPlainTokens) return nullptr;
    return std::make_unique<OverlapExecutor>(number_, *script_, communicator);
  }
  Buffer allocate(size_t bytes) override {
    script_->log(number_, "allocate");
    return FakeBackend::allocate(bytes);
  }
  StepView begin_step(const Step& step) override {
    script_->log(number_, "plain");
    return FakeBackend::begin_step(step);
  }

 private:
  const int number_;
  const std::shared_ptr<Script> script_;
};

struct Fixture : GroupFixture {
  explicit Fixture(int size, std::shared_ptr<Script> given = std::make_shared<Script>())
      : GroupFixture(size, [given](int rank) { return std::make_unique<OverlapBackend>(rank, given); }), script(std::move(given)) {}

  int64_t run(int step, int64_t program = kProgram) { return send(RunProgram{program, step_of(static_cast<float>(step))}); }

  std::shared_ptr<Script> script;
};

// Holds every rank in the start of step 1 until the test has queued all that it wants.
class Gate {
 public:
  Probe probe() {
    return [this](int, int step) {
      while (step == 1 && !open_) std::this_thread::sleep_for(milliseconds(1));
    };
  }
  void open() { open_ = true; }

 private:
  std::atomic<bool> open_{false};
};

std::string expected_log(int steps) {
  std::string log = "+1 ";
  for (int step = 1; step <= steps; ++step) {
    if (step < steps) log.append("+").append(std::to_string(step + 1)).append(" ");
    log.append("-").append(std::to_string(step)).append(" ");
  }
  return log;
}

void check_order(Fixture& f) {
  const std::vector<int64_t> order = f.inbox->order();
  for (size_t i = 0; i < order.size(); ++i) check(order[i] == static_cast<int64_t>(i) + 1, "answer ", i, " is of ticket ", order[i]);
  check(f.inbox->each_once(), "every ticket once");
}

}  // namespace

HEDDLE_TEST(rank_overlap_submits_the_next_step_before_it_finishes_the_last) {
  for (const int size : {1, 2, 4}) {
    constexpr int steps = 200;
    Gate gate;
    auto script = std::make_shared<Script>();
    script->on_start = gate.probe();
    Fixture f(size, script);
    f.send(sum_program());
    std::vector<int64_t> tickets;
    for (int step = 1; step <= steps; ++step) tickets.push_back(f.run(step));
    gate.open();
    f.inbox->wait(tickets.back());
    for (size_t i = 0; i < tickets.size(); ++i) check_sum(f.inbox->wait(tickets[i]), static_cast<float>((static_cast<int>(i) + 1) * size));
    check_order(f);
    for (int rank = 0; rank < size; ++rank) {
      check(f.script->log_of(rank) == expected_log(steps), "rank ", rank, ": ", f.script->log_of(rank));
    }
  }
}

HEDDLE_TEST(rank_overlap_finishes_at_once_where_nothing_follows) {
  Fixture f(2);
  f.ask(sum_program());
  for (int step = 1; step <= 3; ++step) check_sum(f.inbox->wait(f.run(step)), static_cast<float>(2 * step));
  check(f.script->log_of(0) == "+1 -1 +2 -2 +3 -3 ", f.script->log_of(0));
}

// The next step comes when the rank has nothing to do but wait for the device.
HEDDLE_TEST(rank_overlap_submits_a_step_that_comes_while_the_device_works) {
  auto script = std::make_shared<Script>();
  Fixture f(1, script);
  f.ask(sum_program());
  script->ready = [&](int, int step) {
    if (step < 3) f.run(step + 1);                    // asked once for each step: then the next one is there
    return step == 3;
  };
  f.run(1);
  for (const int step : {1, 2, 3}) check_sum(f.inbox->wait(kOpenTicket + 1 + step), static_cast<float>(step));
  check(script->log_of(0) == "+1 +2 -1 +3 -2 -3 ", script->log_of(0));
  check_order(f);
}

HEDDLE_TEST(rank_overlap_gives_up_looking_for_a_step_that_does_not_come) {
  auto script = std::make_shared<Script>();
  script->ready = [](int, int) { return false; };     // a device that never says so by itself
  Fixture f(2, script);
  f.send(sum_program());
  for (const int step : {1, 2}) check_sum(f.inbox->wait(f.run(step)), static_cast<float>(2 * step));
}

HEDDLE_TEST(rank_overlap_answers_other_messages_with_nothing_under_way) {
  Gate gate;
  auto script = std::make_shared<Script>();
  script->on_start = gate.probe();
  Fixture f(2, script);
  CreateProgram plain = sum_program(kPlain);
  plain.max_tokens = kPlainTokens;
  f.send(plain);
  f.send(sum_program());
  f.send(sum_program(kOther));
  f.run(1);
  f.run(2);
  f.send(tensor_message(5, {2}, {1, 2}));
  f.run(3);
  const int64_t run_plain = f.run(4, kPlain);
  f.run(5);
  const int64_t other = f.run(6, kOther);
  f.send(Dispose{{kOther}});
  const int64_t late = f.run(7, kOther);
  const int64_t last = f.run(8);
  gate.open();
  check_sum(f.inbox->wait(last), 16);
  check_sum(f.inbox->wait(run_plain), 8);
  check_sum(f.inbox->wait(other), 12);
  failed_with(f.inbox->wait(late), ErrorCode::closed, "program");
  check_order(f);
  for (const int rank : {0, 1}) {
    const std::string expected = "allocate +1 +2 -1 -2 allocate +3 -3 plain +5 +6 -5 -6 end0 +8 -8 ";
    check(f.script->log_of(rank) == expected, "rank ", rank, ": ", f.script->log_of(rank));
  }
}

HEDDLE_TEST(rank_overlap_answers_a_refused_step_in_its_turn) {
  Gate gate;
  auto script = std::make_shared<Script>();
  script->on_start = [hold = gate.probe()](int rank, int step) {
    hold(rank, step);
    if (step == 2) throw Error(ErrorCode::invalid_argument, "slot 0 holds no token");
  };
  Fixture f(2, script);
  f.send(sum_program());
  const int64_t first = f.run(1);
  const int64_t refused = f.run(2);
  const int64_t third = f.run(3);
  const int64_t too_long = f.send(RunProgram{kProgram, step_of(4, 9)});
  const int64_t empty = f.send(RunProgram{kProgram, nullptr});
  const int64_t unknown = f.run(5, 12345);
  const int64_t last = f.run(6);
  gate.open();
  check_sum(f.inbox->wait(last), 12);
  check_sum(f.inbox->wait(first), 2);
  failed_with(f.inbox->wait(refused), ErrorCode::invalid_argument, "slot 0");
  check_sum(f.inbox->wait(third), 6);
  failed_with(f.inbox->wait(too_long), ErrorCode::invalid_argument, "1 to 8 tokens");
  failed_with(f.inbox->wait(empty), ErrorCode::invalid_argument);
  failed_with(f.inbox->wait(unknown), ErrorCode::closed);
  check_order(f);
}

HEDDLE_TEST(rank_overlap_error_of_a_step_takes_the_one_behind_it_along) {
  Gate gate;
  auto script = std::make_shared<Script>();
  script->on_start = gate.probe();
  Fixture f(2, script);
  script->on_finish = [inbox = f.inbox](int rank, int step) {
    if (rank != 1 || step != 2) return;
    inbox->wait(kOpenTicket + 2);                     // both ranks have answered step 1
    throw Error(ErrorCode::device_failed, "kernel 7 exploded");
  };
  f.send(sum_program());
  std::vector<int64_t> tickets;
  for (int step = 1; step <= 5; ++step) tickets.push_back(f.run(step));
  gate.open();
  check_sum(f.inbox->wait(tickets[0]), 2);
  for (size_t i = 1; i < tickets.size(); ++i) {
    const Completion completion = f.inbox->wait(tickets[i]);
    failed_with(completion, ErrorCode::device_failed, "kernel 7 exploded");
    check(completion.failure && completion.failure->rank == 1, "the culprit is rank 1");
  }
  failed_with(f.ask(ReadTensor{1}), ErrorCode::device_failed, "kernel 7 exploded");
  check(!f.ask(Dispose{{kProgram}}).failure, "memory can be given back");
  check(f.script->log_of(1) == "+1 +2 -1 +3 end2 ", "nothing is asked of a broken executor: ", f.script->log_of(1));
  check_order(f);
}

HEDDLE_TEST(rank_overlap_error_of_a_start_leaves_the_step_before_it) {
  for (const int size : {1, 2}) {
    const int last = size - 1;
    Gate gate;
    auto script = std::make_shared<Script>();
    script->on_start = [=, hold = gate.probe()](int rank, int step) {
      hold(rank, step);
      if (rank == last && step == 2) throw std::runtime_error("no more launches");
    };
    Fixture f(size, script);
    f.send(sum_program());
    const int64_t first = f.run(1);
    const int64_t second = f.run(2);
    const int64_t third = f.run(3);
    gate.open();
    if (size == 1) check_sum(f.inbox->wait(first), 1);  // a peer may still be in the step's last sum when it hears of the error
    failed_with(f.inbox->wait(second), ErrorCode::device_failed, "no more launches");
    failed_with(f.inbox->wait(third), ErrorCode::device_failed, "no more launches");
    check(f.script->log_of(last) == "+1 +2 -1 ", "nothing is started behind the error: ", f.script->log_of(last));
    check_order(f);
  }
}

HEDDLE_TEST(rank_overlap_close_answers_both_steps_under_way) {
  for (const bool in_start : {false, true}) {
    auto reached = std::make_shared<std::atomic<int>>(0);
    auto closing = std::make_shared<std::atomic<bool>>(false);
    auto script = std::make_shared<Script>();
    Gate gate;
    const auto wait_for_close = [=](int, int) {
      ++*reached;
      while (!*closing) std::this_thread::sleep_for(milliseconds(1));
    };
    script->on_start = [=, hold = gate.probe()](int rank, int step) {
      hold(rank, step);
      if (in_start && step == 2) wait_for_close(rank, step);
    };
    if (!in_start) script->on_finish = wait_for_close;
    Fixture f(2, script);
    f.send(sum_program());
    const std::vector<int64_t> tickets = {f.run(1), f.run(2), f.run(3)};
    gate.open();
    check(eventually([&] { return *reached == 2; }), "both ranks have two steps under way");
    f.send(Close{});                                  // the ranks are told when this returns; it does not wait for them
    *closing = true;
    f.group->close();
    for (const int64_t ticket : tickets) failed_with(f.inbox->wait(ticket), ErrorCode::closed);
    check_order(f);
    check(eventually([&] { return f.script->log_of(0).find("end") != std::string::npos; }), "the executor is gone: ",
          f.script->log_of(0));
  }
}

HEDDLE_TEST(rank_overlap_close_answers_for_a_rank_that_hangs_with_two_steps) {
  auto release = std::make_shared<std::atomic<bool>>(false);
  auto reached = std::make_shared<std::atomic<int>>(0);
  auto script = std::make_shared<Script>();
  Gate gate;
  script->on_start = gate.probe();
  script->on_finish = [=](int rank, int) {
    ++*reached;
    while (rank == 1 && !*release) std::this_thread::sleep_for(milliseconds(1));
  };
  Fixture f(2, script);
  f.send(sum_program());
  const std::vector<int64_t> tickets = {f.run(1), f.run(2), f.run(3)};
  gate.open();
  check(eventually([&] { return *reached == 2; }), "rank 1 hangs, rank 0 waits for it");
  f.group->close();
  for (const int64_t ticket : tickets) failed_with(f.inbox->wait(ticket), ErrorCode::closed);
  check_order(f);
  *release = true;
  check(eventually([&] { return f.script->log_of(1).find("end") != std::string::npos; }), "the thread that was left ends by itself");
}

HEDDLE_TEST(rank_overlap_close_at_any_time_answers_everything) {
  for (int round = 0; round < 30; ++round) {
    Fixture f(3);
    f.send(sum_program());
    for (int step = 1; step <= 300; ++step) f.run(step);
    std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
    f.group->close();
    for (int64_t ticket = kOpenTicket; ticket <= f.last_ticket; ++ticket) {
      const Completion completion = f.inbox->wait(ticket);
      if (completion.failure) failed_with(completion, ErrorCode::closed);
    }
    check_order(f);
  }
}

}  // namespace heddle::test
