// The CPU backend: one rank's memory, kept step and operations. Rule: thin; an operation is the file of its name.
#pragma once
#include <memory>
#include <string>

#include "core/backend.h"
#include "cpu/attention.h"
#include "cpu/experts.h"
#include "cpu/linear.h"
#include "cpu/rotary.h"
#include "cpu/step_state.h"

namespace heddle::cpu {

// `compute` bfloat16: linear layers round their inputs to bfloat16; all other arithmetic is float32 all the same.
// `reproducible`: no result depends on how many columns or heads this rank has, or on their places.
std::unique_ptr<Backend> create_backend(DType compute, bool reproducible = false);

class CpuBackend final : public Backend {
 public:
  CpuBackend(DType compute, bool reproducible) : compute_(compute), reproducible_(reproducible) {}

  std::string description() const override;
  Buffer allocate(size_t bytes) override;
  DType activation_dtype() const override { return DType::float32; }
  void upload(void* target, const void* source, size_t bytes) override;
  void download(void* target, const void* source, size_t bytes) override;
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
  void attention(const StepView& step, View qkv, const AttentionTensors& tensors, const AttentionSpec& spec,
                 View y) override;
  void last_rows(const StepView& step, View x, View y) override;
  void sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator,
              int32_t* tokens) override;
  void logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator,
                const int32_t* tokens, std::vector<TokenLogprob>& found) override;
  void synchronize() override {}

 private:
  DType compute_;
  bool reproducible_;
  StepState step_;
  RotaryCache rotary_;
  AttentionScratch attention_scratch_;
  LinearScratch linear_scratch_;
  ExpertsScratch experts_scratch_;
};

}  // namespace heddle::cpu
