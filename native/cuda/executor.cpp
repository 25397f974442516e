#include "cuda/executor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "cuda/device_wait.h"
#include "cuda/logprobs.h"

namespace heddle::cuda {

ExecutorOptions options_of_environment() {
  const char* graphs = std::getenv("HEDDLE_CUDA_GRAPHS");
  return {true, !graphs || std::strcmp(graphs, "0") != 0};
}

CudaExecutor::CudaExecutor(const ProgramPlan& program, DType dtype, const Device& device, SlotTokens& slots, EagerSteps& eager,
                           DeviceCommunicator& communicator, const ExecutorOptions& options)
    : program_(program), device_(device), slots_(slots), eager_(eager), communicator_(communicator),
      runner_(program_, dtype, options.fuse, device, communicator), steps_(device, slots, program.max_tokens, program.max_sequences) {
  for (const auto& node : program_.nodes) {
    if (node->op == Op::input || node->op == Op::output) overlaps_ = false;
    if (node->op == Op::sample) vocab_size_ = node->sample.vocab_size;
    if (node->op == Op::attention) {
      longest_context_ = std::max(longest_context_, node->attention.block_count * node->attention.block_size);
    }
  }
  if (options.graphs && overlaps_) graphs_ = std::make_unique<Graphs>(device, communicator, eager);
  for (Flight& flight : flights_) {
    flight.tokens = pinned_memory(static_cast<size_t>(program_.max_sequences) * sizeof(int32_t));
    flight.logprobs = pinned_memory(static_cast<size_t>(program_.max_sequences) * (1 + kMaxLogprobs) * sizeof(TokenLogprob));
    flight.done = make_event();
  }
}

// Kernels may still use the memory: steps under way, after an error too. Collectives of an aborted group end by themselves.
CudaExecutor::~CudaExecutor() { (void)cudaStreamSynchronize(device_.stream()); }

// An error leaves from here, so that nothing is started behind it; but a kernel's invalid_argument, which may not be taken for a refusal,
// leaves from finish.
//
// The ranks meet first: none may give back or take memory, which waits for GPUs, while a kernel of another waits for its step; and all
// have submitted the step before, whose kernels then end by themselves.
void CudaExecutor::start(const Step& step, const std::atomic<bool>& cancelled) {
  slots_.check(step);
  if (communicator_.size() > 1) communicator_.barrier();
  Flight& flight = flights_[started_++ % kRing];
  flight.shape = shape_of(step);
  flight.failure = nullptr;
  try {
    submit(step, flight, cancelled);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument) throw;
    flight.failure = std::current_exception();
  }
}

void CudaExecutor::submit(const Step& step, Flight& flight, const std::atomic<bool>& cancelled) {
  const bool decode = graphs_ && is_decode(flight.shape);
  StepRun run;
  run.shape = decode ? bucket_shape(flight.shape.sequences) : flight.shape;
  run.step = steps_.submit(step, run.shape);
  run.host = &step;
  if (vocab_size_ > 0) run.methods = sample_methods(step, vocab_size_);
  const auto stages = [&] { runner_.run(run, cancelled); };
  if (decode) {
    graphs_->run({run.shape.sequences, run.methods}, steps_.epoch(), stages);
  } else {
    ++eager_.count;
    const Lockstep lockstep(communicator_);
    stages();
  }
  if (vocab_size_ > 0) {
    slots_.mark_sampled(step);
    copy_tokens(run.step, flight);
    flight.sampling = run.methods.logprobs ? step.sampling : std::vector<SamplingParams>();
    if (run.methods.logprobs) copy_logprobs(run.step, flight);
  }
  check(cudaEventRecord(flight.done.get(), device_.stream()), "Program");
}

bool CudaExecutor::is_decode(const StepShape& shape) const { return shape.longest_part == 1; }

// Upper bounds of every step that the bucket serves, and the same whether it is captured or not, so that the eager run before the
// capture asks for all the memory that the captured one needs.
StepShape CudaExecutor::bucket_shape(int64_t sequences) const {
  const int64_t bucket = bucket_of(sequences, program_.max_sequences);
  return {bucket, bucket, 1, longest_context_, 0};
}

// Not part of a graph, since the target changes from step to step.
void CudaExecutor::copy_tokens(const DeviceStep& step, const Flight& flight) {
  const auto bytes = static_cast<size_t>(flight.shape.sequences) * sizeof(int32_t);
  check(cudaMemcpyAsync(flight.tokens.data(), step.sampled, bytes, cudaMemcpyDeviceToHost, device_.stream()), "sample");
}

void CudaExecutor::copy_logprobs(const DeviceStep& step, const Flight& flight) {
  const auto bytes = static_cast<size_t>(flight.shape.sequences) * (1 + kMaxLogprobs) * sizeof(TokenLogprob);
  check(cudaMemcpyAsync(flight.logprobs.data(), step.logprobs, bytes, cudaMemcpyDeviceToHost, device_.stream()), "logprobs");
}

bool CudaExecutor::ready() const {
  const Flight& oldest = flights_[finished_ % kRing];
  return finished_ == started_ || oldest.failure || query(oldest.done) != cudaErrorNotReady;
}

RunResult CudaExecutor::finish(const std::atomic<bool>& cancelled) {
  if (finished_ == started_) throw Error(ErrorCode::invalid_argument, "Program: expected a step under way, got none");
  const Flight& flight = flights_[finished_++ % kRing];
  if (flight.failure) std::rethrow_exception(flight.failure);
  wait_for_device([&] { return query(flight.done); }, communicator_,
                  {.where = "Program", .cancelled = &cancelled, .another_behind = started_ != finished_});
  return result(flight);
}

RunResult CudaExecutor::result(const Flight& flight) {
  RunResult result;
  if (vocab_size_ > 0) {
    const auto* tokens = static_cast<const int32_t*>(flight.tokens.data());
    result.tokens.assign(tokens, tokens + flight.shape.sequences);
    append_logprobs(flight.sampling, static_cast<const TokenLogprob*>(flight.logprobs.data()), result.logprobs);
  }
  if (communicator_.rank() != 0) return result;
  for (size_t i = 0; i < program_.nodes.size(); ++i) {
    const CompiledNode& node = *program_.nodes[i];
    if (node.op == Op::output) result.outputs[node.name] = download(runner_.schedule().inputs[i][0], flight.shape);
  }
  return result;
}

// Outputs are float32 in every group, and their memory is theirs until the next step.
HostMatrix CudaExecutor::download(int32_t value, const StepShape& shape) {
  const View x = runner_.view(value, shape);
  HostMatrix matrix{std::vector<float>(static_cast<size_t>(x.rows * x.width)), {x.rows, x.width}};
  const size_t bytes = matrix.data.size() * sizeof(float);
  check(cudaMemcpyAsync(matrix.data.data(), x.data, bytes, cudaMemcpyDeviceToHost, device_.stream()), "output");
  check(cudaStreamSynchronize(device_.stream()), "output");
  return matrix;
}

}  // namespace heddle::cuda
