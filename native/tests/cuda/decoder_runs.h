// Steps for a small decoder, and its runs on the CPU and on the CUDA backend's executor, each rank on a thread of its own.
#pragma once
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "cuda/executor.h"
#include "decoder.h"
#include "rank_threads.h"

namespace heddle::test {

inline const std::atomic<bool> kNotCancelled{false};

constexpr int64_t kMaxTokens = 32;
constexpr int64_t kMaxSequences = 6;

// An environment variable for a scope.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

// What one sequence adds to a step. Its cache blocks are its own from the start, by its slot.
struct Part {
  int32_t slot = 0;
  std::vector<int32_t> tokens;
};

// Makes steps; remembers how long every sequence is.
class Batch {
 public:
  explicit Batch(const DecoderOptions& options) : options_(options), lengths_(static_cast<size_t>(kMaxSequences)) {}

  Step step(const std::vector<Part>& parts, const std::vector<SamplingParams>& sampling = {}) {
    Step step;
    step.sampling = sampling;
    step.sequence_starts.push_back(0);
    for (const Part& part : parts) {
      int32_t& length = lengths_[static_cast<size_t>(part.slot)];
      for (const int32_t token : part.tokens) {
        step.tokens.push_back(token);
        step.positions.push_back(length++);
      }
      check(length <= blocks() * options_.block_size, "a test's sequence outgrows its blocks: ", length, " tokens");
      step.sequence_starts.push_back(static_cast<int32_t>(step.tokens.size()));
      step.slots.push_back(part.slot);
      for (int64_t block = 0; block < blocks(); ++block) step.block_table.push_back(static_cast<int32_t>(part.slot * blocks() + block));
    }
    return step;
  }
  // A part of `count` tokens that differ.
  Part prompt(int32_t slot, int32_t count) const {
    Part part{slot, {}};
    for (int32_t i = 0; i < count; ++i) part.tokens.push_back(static_cast<int32_t>((slot * 7 + i * 3 + 1) % options_.vocab_size));
    return part;
  }
  // A step that continues every sequence with the token sampled in its slot.
  Step decode(const std::vector<int32_t>& slots, const std::vector<SamplingParams>& sampling = {}) {
    std::vector<Part> parts;
    for (const int32_t slot : slots) parts.push_back({slot, {-1 - slot}});
    return step(parts, sampling);
  }

 private:
  int64_t blocks() const { return options_.block_count / kMaxSequences; }

  const DecoderOptions options_;
  std::vector<int32_t> lengths_;
};

inline CreateProgram message_of(const Decoder& decoder) {
  CreateProgram message;
  message.nodes = decoder.nodes();
  message.max_tokens = kMaxTokens;
  message.max_sequences = kMaxSequences;
  return message;
}

inline TensorTable tensors_on(Backend& backend, const Decoder& decoder) {
  TensorTable table;
  for (const auto& [id, spec] : decoder.tensors()) {
    const std::vector<uint8_t> elements = encoded(decoder.values(id), spec.dtype);
    auto tensor = std::make_shared<Tensor>(Tensor{spec.dtype, spec.shape, spec.role, backend.allocate(elements.size())});
    backend.upload(tensor->buffer.data(), elements.data(), elements.size());
    table[id] = tensor;
  }
  return table;
}

inline TensorTable tensors_on(const cuda::Device& device, const Decoder& decoder) {
  TensorTable table;
  for (const auto& [id, spec] : decoder.tensors()) {
    table[id] = std::make_shared<Tensor>(tensor_on(device, decoder.values(id), spec.shape, spec.dtype, spec.role));
  }
  return table;
}

// What rank 0 gives, step by step, of a group whose programs run through their backends.
template <class Communicators, class MakeBackend>
std::vector<RunResult> run_on_backends(const DecoderOptions& options, const std::vector<Step>& steps, Communicators communicators,
                                       const MakeBackend& make_backend) {
  std::vector<RunResult> results;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.size; ++rank) {
    threads.emplace_back([&, rank] {
      auto& communicator = *communicators[static_cast<size_t>(rank)];
      try {
        const std::unique_ptr<Backend> backend = make_backend(communicator);
        const Decoder decoder(options, rank);
        Program program(message_of(decoder), tensors_on(*backend, decoder), *backend, communicator);
        for (const Step& step : steps) {
          RunResult result = program.run(step, kNotCancelled);
          if (rank == 0) results.push_back(std::move(result));
        }
      } catch (const std::exception& error) {
        record_failure("rank " + std::to_string(rank) + ": " + error.what());
        communicator.abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

inline std::vector<RunResult> run_on_cpu(const DecoderOptions& options, DType dtype, const std::vector<Step>& steps) {
  return run_on_backends(options, steps, comm::create_local(options.size), [&](Communicator&) { return cpu::create_backend(dtype); });
}

inline std::vector<RunResult> run_on_cuda_backend(const DecoderOptions& options, DType dtype, const std::vector<Step>& steps) {
  return run_on_backends(options, steps, local_communicators(options.size), [&](cuda::DeviceCommunicator& communicator) {
    return cuda::create_backend(0, communicator.rank(), dtype, communicator, nullptr);
  });
}

// One rank of a group on the CUDA backend, with a decoder compiled for its executor.
struct CudaRank {
  const cuda::Device& device;
  cuda::DeviceCommunicator& communicator;
  cuda::SlotTokens slots;
  cuda::EagerSteps eager;
  Decoder decoder;
  ProgramPlan plan;
  cuda::CudaExecutor executor;

  CudaRank(const cuda::Device& device_, cuda::DeviceCommunicator& communicator_, const DecoderOptions& options, DType dtype,
           const cuda::ExecutorOptions& how)
      : device(device_), communicator(communicator_), slots(device), decoder(options, communicator.rank()),
        plan(compiled(decoder.nodes(), tensors_on(device, decoder), options.size, kMaxTokens, kMaxSequences)),
        executor(plan, dtype, device, slots, eager, communicator, how) {}

  RunResult run(const Step& step) {
    executor.start(step, kNotCancelled);
    return executor.finish(kNotCancelled);
  }
  // Each step submitted before the last is finished, where the program allows it.
  std::vector<RunResult> run(const std::vector<Step>& steps) {
    std::vector<RunResult> results;
    size_t started = 0;
    while (results.size() < steps.size()) {
      const size_t ahead = executor.overlaps() ? 2 : 1;
      while (started < steps.size() && started < results.size() + ahead) executor.start(steps[started++], kNotCancelled);
      results.push_back(executor.finish(kNotCancelled));
    }
    return results;
  }
};

using CudaRankBody = std::function<void(CudaRank& rank)>;

inline void on_cuda_ranks(const DecoderOptions& options, DType dtype, const cuda::ExecutorOptions& how, const CudaRankBody& body) {
  on_ranks(options.size, [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    CudaRank rank(device, communicator, options, dtype, how);
    body(rank);
  });
}

// What rank 0 of a group on the CUDA backend gives; the tokens are those of every rank.
inline std::vector<RunResult> run_on_cuda(const DecoderOptions& options, DType dtype, const cuda::ExecutorOptions& how,
                                          const std::vector<Step>& steps) {
  std::vector<std::vector<RunResult>> results(static_cast<size_t>(options.size));
  on_cuda_ranks(options, dtype, how, [&](CudaRank& rank) { results[static_cast<size_t>(rank.communicator.rank())] = rank.run(steps); });
  for (const auto& other : results) {
    for (size_t i = 0; i < other.size() && i < results[0].size(); ++i) {
      check(other[i].tokens == results[0][i].tokens, "step ", i, ": ranks sampled different tokens");
    }
  }
  return results[0];
}

}  // namespace heddle::test
