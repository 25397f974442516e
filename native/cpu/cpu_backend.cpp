#include "cpu/cpu_backend.h"

#include <cstring>

#include "cpu/cpu_features.h"
#include "cpu/experts.h"
#include "cpu/logprobs.h"
#include "cpu/memory.h"
#include "cpu/operations.h"
#include "cpu/sample.h"

namespace heddle::cpu {

std::unique_ptr<Backend> create_backend(DType compute, bool reproducible) {
  return std::make_unique<CpuBackend>(compute, reproducible);
}

std::string CpuBackend::description() const { return std::string("cpu (") + name_of(cpu_isa()) + ")"; }

Buffer CpuBackend::allocate(size_t bytes) { return cpu::allocate(bytes); }

void CpuBackend::upload(void* target, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

void CpuBackend::download(void* target, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

StepView CpuBackend::begin_step(const Step& step) {
  rotary_.clear();
  return step_.begin(step);
}

void CpuBackend::embed(const StepView& step, const Tensor& weight, const EmbedSpec& spec, View y) {
  cpu::embed(step, weight, spec, reproducible_, y);
}

void CpuBackend::linear(View x, const Tensor& weight, const LinearSpec& spec, View y) {
  const LinearArgs args = {x.floats(), weight.buffer.data(), weight.dtype, y.floats(), x.rows, x.width, y.width,
                           compute_ == DType::bfloat16};
  if (spec.chunks.empty()) return cpu::linear(args, linear_scratch_);
  cpu::linear_chunks(args, spec.chunks, linear_scratch_);
}

void CpuBackend::add_bias(View x, const Tensor& bias, View y) { cpu::add_bias(x, bias, y); }

void CpuBackend::add(View a, View b, View y) { cpu::add(a, b, y); }

void CpuBackend::slice(View x, int64_t start, View y) { cpu::slice(x, start, y); }

void CpuBackend::rms_norm(View x, const Tensor& weight, float eps, View y) { cpu::rms_norm(x, weight, eps, y); }

void CpuBackend::layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y) {
  cpu::layer_norm(x, weight, bias, eps, y);
}

void CpuBackend::activation(View x, Activation kind, View y) { cpu::activation(x, kind, y); }

void CpuBackend::gated(View x, Activation kind, View y) { cpu::gated(x, kind, y); }

void CpuBackend::route(View x, const RouteSpec& spec, View y) { cpu::route(x, spec, y); }

void CpuBackend::experts(View x, View routing, const Tensor& gate_up, const Tensor& down, const ExpertsSpec& spec, View y) {
  cpu::experts({x, routing, gate_up, down, spec, y, compute_ == DType::bfloat16}, experts_scratch_, linear_scratch_);
}

void CpuBackend::attention(const StepView& step, View qkv, const AttentionTensors& tensors, const AttentionSpec& spec,
                           View y) {
  cpu::attention({step, qkv, tensors, spec, y, reproducible_}, rotary_, attention_scratch_);
}

void CpuBackend::last_rows(const StepView& step, View x, View y) { cpu::last_rows(step, x, y); }

void CpuBackend::sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator,
                        int32_t* tokens) {
  cpu::sample(step, logits, spec, communicator, tokens);
  for (int64_t i = 0; i < step.sequence_count; ++i) step_.set_last_token(step.slots[i], tokens[i]);
}

void CpuBackend::logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator,
                          const int32_t* tokens, std::vector<TokenLogprob>& found) {
  cpu::logprobs(step, logits, spec, communicator, tokens, found);
}

}  // namespace heddle::cpu
