// Runs a program node by node through the backend's operations, in one workspace: what a backend gets that brings no executor.
// Rule: a step is done when `start` returns; `finish` only hands its result over.
#pragma once
#include <exception>

#include "core/backend.h"
#include "core/executor.h"
#include "core/workspace_plan.h"

namespace heddle {

class NodeExecutor final : public Executor {
 public:
  NodeExecutor(const ProgramPlan& program, Backend& backend, Communicator& communicator);

  size_t workspace_bytes() const override { return workspace_.bytes(); }
  void start(const Step& step, const std::atomic<bool>& cancelled) override;
  RunResult finish(const std::atomic<bool>& cancelled) override;

 private:
  void place_values();
  void run(const Step& step, const StepView& view, const std::atomic<bool>& cancelled);
  void execute(const CompiledNode& node, View y, const Step& step, const StepView& view);
  View view_of(size_t value, const Step& step) const;
  void all_reduce(View x, View y);
  void sample(const CompiledNode& node, View logits, const Step& step, const StepView& view);
  void upload_input(const HostMatrix& matrix, View y);
  HostMatrix download(View x);

  const ProgramPlan program_;
  Backend& backend_;
  Communicator& communicator_;
  WorkspacePlan places_;                              // of the values in the workspace
  Buffer workspace_;
  RunResult result_;
  std::exception_ptr failure_;                        // of the step that was started: `start` itself only refuses
};

}  // namespace heddle
