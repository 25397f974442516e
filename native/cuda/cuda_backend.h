// The CUDA backend: one rank's GPU, its stream and its operations. Rule: thin; an operation is the file of its name.
// Programs run through the executor that `compile` makes; the operations here run them node by node (HEDDLE_CUDA_FUSION=0) and in tests.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "cuda/device.h"
#include "cuda/device_communicator.h"
#include "cuda/dynlib.h"
#include "cuda/executor.h"
#include "cuda/fill_target.h"
#include "cuda/step_state.h"

namespace heddle::cuda {

// On the rank's thread; attaches the communicator, so all ranks must make theirs. `dtype`: of the group. `cublaslt` may be null, for
// tests. `reproducible`: no result depends on how many columns or heads this rank has, or on their places; no library's kernels run, since
// they choose by shape. Throws unavailable, device_failed, out_of_memory.
std::unique_ptr<Backend> create_backend(int ordinal, int rank, DType dtype, DeviceCommunicator& communicator, const LtTable* cublaslt,
                                        bool reproducible = false);

class CudaBackend final : public Backend {
 public:
  CudaBackend(int ordinal, int rank, DType dtype, DeviceCommunicator& communicator, const LtTable* cublaslt,
              bool reproducible = false);
  ~CudaBackend() override;

  std::string description() const override;
  Buffer allocate(size_t bytes) override;
  DType activation_dtype() const override { return DType::float32; }
  void upload(void* target, const void* source, size_t bytes) override;
  void download(void* target, const void* source, size_t bytes) override;
  std::unique_ptr<FillTarget> fill_target(const Buffer& memory) override;
  std::unique_ptr<Executor> compile(const ProgramPlan& plan, Communicator& communicator) override;
  StepView begin_step(const Step& step) override;

  void embed(const StepView& step, const Tensor& weight, const EmbedSpec& spec, View y) override;
  void linear(View x, const Tensor& weight, const LinearSpec& spec, View y) override;
  void add_bias(View x, const Tensor& bias, View y) override;
  void add(View a, View b, View y) override;
  void slice(View x, int64_t start, View y) override;
  void rms_norm(View x, const Tensor& weight, float eps, View y) override;
  void layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y) override;
  void activation(View x, Activation kind, View y) override;
  void gated(View x, Activation kind, View y) override;
  void route(View x, const RouteSpec& spec, View y) override;
  void experts(View x, View routing, const Tensor& gate_up, const Tensor& down, const ExpertsSpec& spec, View y) override;
  void attention(const StepView& step, View qkv, const AttentionTensors& tensors, const AttentionSpec& spec, View y) override;
  void last_rows(const StepView& step, View x, View y) override;
  void sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, int32_t* tokens) override;
  void logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, const int32_t* tokens,
                std::vector<TokenLogprob>& found) override;
  void synchronize() override;

  const Device& device() const { return device_; }
  SlotTokens& slots() { return slots_; }

 private:
  Device device_;
  DType dtype_;
  DeviceCommunicator& communicator_;
  std::unique_ptr<MatmulLibrary> matmul_;             // null without cuBLASLt
  std::unique_ptr<PromptLibrary> prompts_;            // null without cuDNN, and in float32 groups
  FillStaging staging_;
  SlotTokens slots_;
  EagerSteps eager_;
  StepState state_;
  // Of the step that begin_step began: a StepView has the device's pointers, but the host's sampling parameters, which are here.
  Step sampling_;
  DeviceStep step_;
  StepShape shape_;
};

}  // namespace heddle::cuda
