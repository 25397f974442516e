// A recorded forward pass, compiled on one rank with its workspace; run many times.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/message.h"

namespace heddle {

using TensorTable = std::map<int64_t, std::shared_ptr<Tensor>>;

constexpr int32_t kMaxSlots = 65536;

struct CompiledNode;

class Program {
 public:
  // Checks every node against its tensors and plans the workspace; throws invalid_argument, closed, out_of_memory.
  Program(const CreateProgram& message, const TensorTable& tensors, Backend& backend, Communicator& communicator);

  // Checks the step before anything collective happens, so that a bad step fails alike on every rank and breaks nothing.
  // `cancelled` is read between operations: when it is set the run ends with `closed`.
  RunResult run(const Step& step, const std::atomic<bool>& cancelled);

  // True when the last run passed its checks: an error after that leaves the ranks out of step, so their communicator must be aborted.
  bool entered() const { return entered_; }

  size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  void check(const Step& step) const;
  void check_tokens(const Step& step) const;
  void check_sequence(const Step& step, int64_t index) const;
  void check_input(const Step& step, const std::string& name, int64_t width) const;
  View view_of(int32_t value, const Step& step) const;
  StepView begin(const Step& step);
  void execute(const CompiledNode& node, int32_t index, const Step& step, const StepView& view, RunResult& result);
  void all_reduce(View x, View y);
  void upload_input(const HostMatrix& matrix, View y);
  HostMatrix download(View x);

  Backend& backend_;
  Communicator& communicator_;
  int64_t max_tokens_;
  int64_t max_sequences_;
  int64_t cache_blocks_ = 0;                          // of the smallest cache; 0 without attention
  int64_t block_size_ = 0;                            // tokens of a cache block; 0 without attention
  int64_t vocab_size_ = 0;                            // of embed; 0 without
  bool entered_ = false;
  std::vector<std::shared_ptr<CompiledNode>> nodes_;
  Buffer workspace_;
};

}  // namespace heddle
