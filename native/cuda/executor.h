// Runs a program on one rank's GPU: submits a step, lets the next be submitted behind it, and waits for the oldest.
// Rule: between start and finish the host touches nothing that the device may still read or write.
#pragma once
#include <array>
#include <exception>
#include <memory>
#include <vector>

#include "core/executor.h"
#include "cuda/graphs.h"
#include "cuda/stage_runner.h"
#include "cuda/step_state.h"

namespace heddle::cuda {

struct ExecutorOptions {
  bool fuse = true;                                   // false: stages of single nodes
  bool graphs = true;
};

// HEDDLE_CUDA_GRAPHS=0 switches graphs off; every rank must see it alike.
ExecutorOptions options_of_environment();

class CudaExecutor final : public Executor {
 public:
  // `dtype` is the group's. All objects outlive this one; `slots` and `eager` are those of the rank, shared by its programs.
  CudaExecutor(const ProgramPlan& program, DType dtype, const Device& device, SlotTokens& slots, EagerSteps& eager,
               DeviceCommunicator& communicator, const ExecutorOptions& options = options_of_environment());
  ~CudaExecutor() override;

  size_t workspace_bytes() const override { return runner_.workspace_bytes(); }
  // Inputs and outputs live in the one workspace, so only programs without them overlap.
  bool overlaps() const override { return overlaps_; }
  void start(const Step& step, const std::atomic<bool>& cancelled) override;
  bool ready() const override;
  RunResult finish(const std::atomic<bool>& cancelled) override;

  const StageRunner& runner() const { return runner_; }
  const Graphs* graphs() const { return graphs_.get(); }   // null: switched off, or the program has inputs or outputs

 private:
  static constexpr size_t kRing = 2;                  // steps under way at most
  struct Flight {
    Buffer tokens;                                    // page-locked [maxSequences]
    Buffer logprobs;                                  // page-locked [maxSequences, 1 + kMaxLogprobs]
    std::vector<SamplingParams> sampling;             // of the step where it asks for logprobs, else empty
    Event done;
    StepShape shape;                                  // of the step itself
    std::exception_ptr failure;                       // of its submission
  };

  void submit(const Step& step, Flight& flight, const std::atomic<bool>& cancelled);
  bool is_decode(const StepShape& shape) const;
  StepShape bucket_shape(int64_t sequences) const;
  void copy_tokens(const DeviceStep& step, const Flight& flight);
  void copy_logprobs(const DeviceStep& step, const Flight& flight);
  RunResult result(const Flight& flight);
  HostMatrix download(int32_t value, const StepShape& shape);

  const ProgramPlan program_;
  const Device& device_;
  SlotTokens& slots_;
  EagerSteps& eager_;
  DeviceCommunicator& communicator_;
  StageRunner runner_;
  StepState steps_;
  std::unique_ptr<Graphs> graphs_;
  std::array<Flight, kRing> flights_;
  size_t started_ = 0;
  size_t finished_ = 0;
  bool overlaps_ = true;
  int64_t longest_context_ = 1;                       // that the caches hold
  int64_t vocab_size_ = 0;                            // of sample; 0: the program does not sample
};

}  // namespace heddle::cuda
