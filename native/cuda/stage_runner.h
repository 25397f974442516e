// Submits a step, stage by stage, to a device's stream: at once, or into a graph that is being captured.
// Rule: which kernels run follows from the shape of the step alone, so what is captured once serves every step of that shape.
#pragma once
#include <atomic>
#include <vector>

#include "cuda/device.h"
#include "cuda/device_communicator.h"
#include "cuda/linear.h"
#include "cuda/sample.h"
#include "cuda/schedule.h"
#include "cuda/step.h"

namespace heddle::cuda {

// A step in place on the device.
struct StepRun {
  DeviceStep step;
  StepShape shape;                                    // rows that are computed; those beyond step.counts are padding
  SampleMethods methods;
  const Step* host = nullptr;                         // for nodes "input"
};

class StageRunner {
 public:
  // Schedules the program and takes memory for its values. All objects outlive this one.
  StageRunner(const ProgramPlan& program, DType dtype, bool fuse, const Device& device, DeviceCommunicator& communicator);
  ~StageRunner();                                     // nothing submitted may be under way
  StageRunner(const StageRunner&) = delete;
  StageRunner& operator=(const StageRunner&) = delete;

  // `cancelled` is read between stages; when it is set: closed. Any other error leaves a part of the step submitted.
  void run(const StepRun& run, const std::atomic<bool>& cancelled);

  // The value that `node` made, as it lies after a run of that shape.
  View view(int32_t node, const StepShape& shape) const;

  const Schedule& schedule() const { return schedule_; }
  size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  const CompiledNode& node(int32_t index) const { return *program_.nodes[static_cast<size_t>(index)]; }
  int32_t input(int32_t index, size_t which = 0) const { return schedule_.inputs[static_cast<size_t>(index)][which]; }
  bool fuses(const Schedule& schedule, const Stage& stage) const;
  void register_workspace();

  void run_linear(const Stage& stage, const StepRun& run);
  void run_all_reduce(const Stage& stage, const StepRun& run);
  void run_single(const Stage& stage, const StepRun& run);
  void run_node(int32_t index, const StepRun& run);
  void need_norm(int32_t index, const StepRun& run);
  void run_sample(int32_t index, const StepRun& run);
  void run_add(View a, View b, View y);
  void run_sum(View x, View y);
  void upload(const HostMatrix& matrix, View y);
  LinearCall product(int32_t index, View x, View y) const;
  LinearCall linear_call(const Stage& stage, const StepShape& shape) const;
  AllReduceEpilogue epilogue(const Stage& stage, const StepShape& shape) const;

  const ProgramPlan& program_;
  const DType dtype_;                                 // of the group
  const Device& device_;
  DeviceCommunicator& communicator_;
  Schedule schedule_;
  Buffer workspace_;
  bool sums_ = false;                                 // the program has an all-reduce
  bool registered_ = false;
  std::vector<bool> made_;                            // by this run, of the norms on demand
  int64_t most_columns_ = 0;                          // of any rank's logits; 0: not asked yet
};

}  // namespace heddle::cuda
