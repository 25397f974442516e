// What tests of ranks share: a group with its completions, a program and its steps, and what they are expected to give.
#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/local/local.h"
#include "core/group.h"
#include "test.h"

namespace heddle::test {

constexpr int64_t kOpenTicket = 1;
constexpr int64_t kProgram = 100;
constexpr int64_t kWidth = 4;
constexpr auto kPatience = std::chrono::minutes(5);  // for what comes in a moment, or never: a machine may be slow and busy

// Completions as they arrive, and the threads that brought them.
class Inbox {
 public:
  void put(Completion&& completion) {
    const std::lock_guard lock(mutex_);
    order_.push_back(completion.ticket);
    ++counts_[completion.ticket];
    threads_[completion.ticket] = std::this_thread::get_id();
    completions_[completion.ticket] = std::move(completion);
    arrived_.notify_all();
  }
  Completion wait(int64_t ticket) {
    std::unique_lock lock(mutex_);
    const bool came = arrived_.wait_for(lock, kPatience, [&] { return completions_.count(ticket) > 0; });
    check(came, "ticket ", ticket, " did not complete");
    return completions_[ticket];
  }
  std::vector<int64_t> order() {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  std::thread::id thread_of(int64_t ticket) {
    const std::lock_guard lock(mutex_);
    return threads_[ticket];
  }
  bool each_once() {
    const std::lock_guard lock(mutex_);
    for (const auto& [ticket, count] : counts_) {
      if (count != 1) return false;
    }
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<int64_t, Completion> completions_;
  std::map<int64_t, int> counts_;
  std::map<int64_t, std::thread::id> threads_;
  std::vector<int64_t> order_;
};

// A group over backends of the test's making; its messages get tickets one after the other.
struct GroupFixture {
  using CreateBackend = std::function<std::unique_ptr<Backend>(int rank)>;

  GroupFixture(int size, CreateBackend create_backend, comm::LocalOptions options = {}) {
    GroupParts parts;
    parts.communicators = comm::create_local(size, options);
    parts.create_backend = std::move(create_backend);
    parts.on_completion = [inbox = inbox](Completion&& completion) { inbox->put(std::move(completion)); };
    group = std::make_unique<RankGroup>(std::move(parts), kOpenTicket);
  }

  int64_t send(Message message) {
    const int64_t ticket = ++last_ticket;
    group->submit(ticket, std::move(message));
    return ticket;
  }
  Completion ask(Message message) { return inbox->wait(send(std::move(message))); }

  std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  std::unique_ptr<RankGroup> group;
  int64_t last_ticket = kOpenTicket;
};

inline Node node(Op op, std::vector<int32_t> inputs, std::map<std::string, std::string> texts = {}) {
  Node made;
  made.op = op;
  made.inputs = std::move(inputs);
  made.width = kWidth;
  made.texts = std::move(texts);
  return made;
}

// y = sum over the ranks of x, with the fake backend's hook before the sum.
inline CreateProgram sum_program(int64_t id = kProgram) {
  CreateProgram program;
  program.id = id;
  program.max_tokens = 8;
  program.max_sequences = 1;
  program.nodes = {node(Op::input, {}, {{"name", "x"}}), node(Op::activation, {0}, {{"kind", "relu"}}),
                   node(Op::all_reduce, {1}), node(Op::output, {2}, {{"name", "y"}})};
  return program;
}

inline std::shared_ptr<const Step> step_of(float value, int32_t tokens = 2) {
  Step step;
  for (int32_t i = 0; i < tokens; ++i) {
    step.tokens.push_back(0);
    step.positions.push_back(i);
  }
  step.sequence_starts = {0, tokens};
  step.slots = {0};
  step.inputs["x"] = {std::vector<float>(static_cast<size_t>(tokens * kWidth), value), {tokens, kWidth}};
  return std::make_shared<const Step>(std::move(step));
}

inline void check_sum(const Completion& completion, float expected) {
  if (!check(!completion.failure, "run failed: ", completion.failure ? completion.failure->message : "")) return;
  const auto* result = std::get_if<RunResult>(&completion.result);
  if (!check(result && result->outputs.count("y") == 1, "a run gives output y")) return;
  const HostMatrix& y = result->outputs.at("y");
  check(y.shape == std::vector<int64_t>{2, kWidth}, "shape of y");
  for (const float value : y.data) check(value == expected, "expected ", expected, ", got ", value);
}

inline bool failed_with(const Completion& completion, ErrorCode code, const std::string& text = "") {
  const bool failed = completion.failure && completion.failure->code == code &&
                      completion.failure->message.find(text) != std::string::npos;
  return check(failed, "expected ", name_of(code), " ", text, ", got ",
               completion.failure ? name_of(completion.failure->code) : "a result", " ",
               completion.failure ? completion.failure->message : "");
}

inline CreateTensor tensor_message(int64_t id, std::vector<int64_t> shape, std::vector<float> values,
                                   TensorRole role = TensorRole::weight) {
  CreateTensor message;
  message.id = id;
  message.shape = std::move(shape);
  message.role = role;
  if (values.empty()) return message;
  const auto* first = reinterpret_cast<const uint8_t*>(values.data());
  Piece piece;
  piece.bytes = std::make_shared<const std::vector<uint8_t>>(first, first + values.size() * sizeof(float));
  piece.rows = 1;
  piece.row_elements = static_cast<int64_t>(values.size());
  message.pieces = {piece};
  return message;
}

// Polls for something that other threads bring about.
inline bool eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!holds() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return holds();
}

}  // namespace heddle::test
