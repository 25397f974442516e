// A recorded forward pass, compiled and checked on one rank; run many times by the backend's executor.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/executor.h"
#include "core/message.h"

namespace heddle {

using TensorTable = std::map<int64_t, std::shared_ptr<Tensor>>;

constexpr int32_t kMaxSlots = 65536;

class Program {
 public:
  // Checks every node against its tensors and prepares to run them; throws invalid_argument, closed, out_of_memory.
  Program(const CreateProgram& message, const TensorTable& tensors, Backend& backend, Communicator& communicator);

  // Checks the step before anything collective happens, so that a bad step fails alike on every rank and breaks nothing; then submits
  // it. Where the program overlaps, the next step may be started before this one is finished, but no third.
  // `cancelled` is read between operations: when it is set the run ends with `closed`.
  void start(const Step& step, const std::atomic<bool>& cancelled);

  // The result of the oldest step that was started. An error leaves the ranks out of step.
  RunResult finish(const std::atomic<bool>& cancelled) { return executor_->finish(cancelled); }

  RunResult run(const Step& step, const std::atomic<bool>& cancelled) {
    start(step, cancelled);
    return finish(cancelled);
  }

  // True when the last start passed its checks: an error after that leaves the ranks out of step, so their communicator must be aborted.
  bool entered() const { return entered_; }

  bool overlaps() const { return executor_->overlaps(); }
  bool ready() const { return executor_->ready(); }   // whether `finish` would return at once
  size_t workspace_bytes() const { return executor_->workspace_bytes(); }

 private:
  void compile(const CreateProgram& message, const TensorTable& tensors, int size);
  void check(const Step& step) const;
  void check_edits(const Step& step) const;
  void check_tokens(const Step& step) const;
  void check_sequence(const Step& step, int64_t index) const;
  void check_input(const Step& step, const std::string& name, int64_t width) const;

  ProgramPlan plan_;
  int64_t cache_blocks_ = 0;                          // of the smallest cache; 0 without attention
  int64_t block_size_ = 0;                            // tokens of a cache block; 0 without attention
  int64_t vocab_size_ = 0;                            // of the table of tokens; 0 without
  int64_t position_count_ = 0;                        // of the table of positions; 0 without
  bool entered_ = false;
  std::unique_ptr<Executor> executor_;
};

}  // namespace heddle
