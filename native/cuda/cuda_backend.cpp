#include "cuda/cuda_backend.h"

#include <cstdlib>
#include <cstring>

#include "cuda/attention.h"
#include "cuda/attention_library.h"
#include "cuda/device_wait.h"
#include "cuda/experts.h"
#include "cuda/linear.h"
#include "cuda/linear_choices.h"
#include "cuda/linear_lt.h"
#include "cuda/logprobs.h"
#include "cuda/operations.h"
#include "cuda/sample.h"

namespace heddle::cuda {

namespace {

// HEDDLE_CUDA_FUSION=0: programs run node by node, every value in float32: slow, and easy to follow. Every rank must see it alike.
bool runs_node_by_node() {
  const char* fusion = std::getenv("HEDDLE_CUDA_FUSION");
  return fusion && std::strcmp(fusion, "0") == 0;
}

}  // namespace

std::unique_ptr<Backend> create_backend(int ordinal, int rank, DType dtype, DeviceCommunicator& communicator, const LtTable* cublaslt,
                                        bool reproducible) {
  return std::make_unique<CudaBackend>(ordinal, rank, dtype, communicator, cublaslt, reproducible);
}

CudaBackend::CudaBackend(int ordinal, int rank, DType dtype, DeviceCommunicator& communicator, const LtTable* cublaslt,
                         bool reproducible)
    : device_(ordinal, rank), dtype_(dtype), communicator_(communicator),
      matmul_(cublaslt && !reproducible ? std::make_unique<MatmulLibrary>(*cublaslt, device_, cache_folder()) : nullptr),
      prompts_(dtype == DType::float32 || reproducible ? nullptr : create_cudnn(device_)), staging_(device_), slots_(device_),
      state_(device_, slots_, 1, 1) {
  device_.matmul = matmul_.get();
  device_.prompts = prompts_.get();
  device_.reproducible = reproducible;
  communicator_.attach(device_);
  communicator_.lockstep(runs_node_by_node());          // executors do that for each step
}

// Kernels may still use the memory that goes now.
CudaBackend::~CudaBackend() { (void)cudaStreamSynchronize(device_.stream()); }

std::string CudaBackend::description() const { return "cuda:" + std::to_string(device_.ordinal()) + " " + device_.name(); }

Buffer CudaBackend::allocate(size_t bytes) {
  Buffer buffer = device_.allocate(bytes, "a tensor");
  if (bytes > 0) check(cudaMemsetAsync(buffer.data(), 0, bytes, device_.stream()), "allocate");
  check(cudaStreamSynchronize(device_.stream()), "allocate");  // whoever fills it may use another stream
  return buffer;
}

void CudaBackend::upload(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, device_.stream()), "upload");
  synchronize();
}

void CudaBackend::download(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, device_.stream()), "download");
  synchronize();
}

std::unique_ptr<FillTarget> CudaBackend::fill_target(const Buffer& memory) {
  return std::make_unique<DeviceFillTarget>(staging_, memory.data());
}

std::unique_ptr<Executor> CudaBackend::compile(const ProgramPlan& plan, Communicator&) {
  if (runs_node_by_node()) return nullptr;
  return std::make_unique<CudaExecutor>(plan, dtype_, device_, slots_, eager_, communicator_);
}

StepView CudaBackend::begin_step(const Step& step) {
  slots_.check(step);
  sampling_.slots = step.slots;
  sampling_.sampling = step.sampling;
  sampling_.edits = step.edits;
  sampling_.sampling.resize(step.slots.size());         // none given: greedy
  shape_ = shape_of(step);
  step_ = state_.submit(step, shape_);
  return {step.token_count(),    step.sequence_count(), step.blocks_per_sequence(),
          step_.tokens,          step_.positions,       step_.sequence_starts,
          step_.slots,           step_.block_table,     sampling_.sampling.data()};
}

void CudaBackend::embed(const StepView&, const Tensor& weight, const EmbedSpec& spec, View y) {
  cuda::embed(device_, step_, weight, spec, y);
}

void CudaBackend::linear(View x, const Tensor& weight, const LinearSpec& spec, View y) {
  LinearCall call;
  call.x = x;
  call.weight = &weight;
  call.y = y;
  call.exact = dtype_ == DType::float32;
  call.chunks = &spec.chunks;
  cuda::linear(device_, call);
}

void CudaBackend::add_bias(View x, const Tensor& bias, View y) { cuda::add_bias(device_, x, bias, y); }

void CudaBackend::add(View a, View b, View y) { cuda::add(device_, a, b, y); }

void CudaBackend::slice(View x, int64_t start, View y) { cuda::slice(device_, x, start, y); }

void CudaBackend::rms_norm(View x, const Tensor& weight, float eps, View y) { cuda::rms_norm(device_, x, weight, eps, y); }

void CudaBackend::layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y) {
  cuda::layer_norm(device_, x, weight, bias, eps, y);
}

void CudaBackend::activation(View x, Activation kind, View y) { cuda::activation(device_, x, kind, y); }

void CudaBackend::gated(View x, Activation kind, View y) { cuda::gated(device_, x, kind, y); }

void CudaBackend::route(View x, const RouteSpec& spec, View y) { cuda::route(device_, x, spec, y); }

void CudaBackend::experts(View x, View routing, const Tensor& gate_up, const Tensor& down, const ExpertsSpec& spec, View y) {
  cuda::experts(device_, {x, routing, &gate_up, &down, &spec, y, dtype_ == DType::float32});
}

void CudaBackend::attention(const StepView&, View qkv, const AttentionTensors& tensors, const AttentionSpec& spec, View y) {
  cuda::attention(device_, {step_, shape_, qkv, tensors, &spec, y});
}

void CudaBackend::last_rows(const StepView&, View x, View y) { cuda::last_rows(device_, step_, x, y); }

void CudaBackend::sample(const StepView& step, View logits, const SampleSpec& spec, Communicator&, int32_t* tokens) {
  const SampleMethods methods = sample_methods(sampling_, spec.vocab_size);
  cuda::sample(device_, {step_, shape_, logits, spec, methods, most_columns(logits.width, communicator_)}, communicator_);
  slots_.mark_sampled(sampling_);
  download(tokens, step_.sampled, static_cast<size_t>(step.sequence_count) * sizeof(int32_t));
}

// The tokens are where sample left them.
void CudaBackend::logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator&, const int32_t*,
                           std::vector<TokenLogprob>& found) {
  const SampleMethods methods = sample_methods(sampling_, spec.vocab_size);
  cuda::logprobs(device_, {step_, shape_, logits, spec, methods, 0}, communicator_);
  std::vector<TokenLogprob> rows(static_cast<size_t>(step.sequence_count) * (1 + kMaxLogprobs));
  download(rows.data(), step_.logprobs, rows.size() * sizeof(TokenLogprob));
  append_logprobs(sampling_.sampling, rows.data(), found);
}

void CudaBackend::synchronize() {
  wait_for_device([&] { return query(device_.stream()); }, communicator_);
}

}  // namespace heddle::cuda
