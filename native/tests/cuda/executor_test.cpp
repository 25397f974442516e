// The executor against the CPU backend: a small decoder over ragged, decode and padded steps, fused or not, with graphs or without,
// among one to four ranks; and how a run ends early.
#include <algorithm>
#include <chrono>

#include "decoder_runs.h"

#if defined(HEDDLE_CUDA_EMULATED)
#include "emulator.h"
#endif

namespace heddle::test {
namespace {

using cuda::ExecutorOptions;

DecoderOptions decoder_options(int size) { return {.size = size, .layer_count = 1, .block_count = 36, .block_size = 4}; }

std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += " " + std::to_string(token);
  return text;
}

std::string text_of(const DecoderOptions& options, const ExecutorOptions& how) {
  const std::string size = "size " + std::to_string(options.size);
  return size + (how.fuse ? ", fused" : ", node by node") + (how.graphs ? ", graphs" : ", no graphs");
}

void expect_same_tokens(const std::vector<RunResult>& got, const std::vector<RunResult>& expected, const std::string& what) {
  if (!check(got.size() == expected.size(), what, ": ", got.size(), " steps of ", expected.size())) return;
  for (size_t i = 0; i < got.size(); ++i) {
    const std::vector<int32_t>&mine = got[i].tokens, &theirs = expected[i].tokens;
    check(mine == theirs, what, ", step ", i, ": expected", text_of(theirs), ", got", text_of(mine));
  }
}

void expect_close_outputs(const std::vector<RunResult>& got, const std::vector<RunResult>& expected, double tolerance,
                          const std::string& what) {
  if (!check(got.size() == expected.size(), what, ": ", got.size(), " steps of ", expected.size())) return;
  for (size_t i = 0; i < got.size(); ++i) {
    for (const auto& [name, matrix] : expected[i].outputs) {
      const auto found = got[i].outputs.find(name);
      if (!check(found != got[i].outputs.end() && found->second.shape == matrix.shape, what, ", step ", i, ": ", name)) continue;
      double largest = 0, error = 0;
      for (size_t k = 0; k < matrix.data.size(); ++k) {
        largest = std::max(largest, std::abs(double{matrix.data[k]}));
        error = std::max(error, std::abs(double{found->second.data[k]} - matrix.data[k]));
      }
      check_close(error / largest, 0, tolerance, what, ", step ", i, ": ", name);
    }
  }
}

// Prefill of several lengths, a mixture, then decode steps of several widths: some pad a bucket, some come often enough to be captured.
std::vector<Step> conversation(const DecoderOptions& options, const std::vector<SamplingParams>& sampling = {}) {
  const auto first = [&](size_t count) {
    const auto end = sampling.begin() + static_cast<std::ptrdiff_t>(std::min(count, sampling.size()));
    return std::vector<SamplingParams>(sampling.begin(), end);
  };
  Batch batch(options);
  std::vector<Step> steps;
  steps.push_back(batch.step({batch.prompt(0, 5), batch.prompt(1, 1), batch.prompt(2, 10)}, first(3)));
  steps.push_back(batch.step({{0, {-1}}, batch.prompt(3, 4)}, first(2)));
  for (int i = 0; i < 3; ++i) steps.push_back(batch.decode({0, 2, 3}, first(3)));
  steps.push_back(batch.decode({3, 1, 0, 2}, first(4)));
  steps.push_back(batch.step({batch.prompt(4, 3)}, first(1)));
  for (int i = 0; i < 3; ++i) steps.push_back(batch.decode({0, 1, 2, 3, 4}, first(5)));
  steps.push_back(batch.decode({2}, first(1)));
  return steps;
}

HEDDLE_TEST(executor_samples_what_the_cpu_samples) {
  const std::vector<std::pair<int, std::vector<ExecutorOptions>>> cases = {
      {1, {{true, true}, {false, false}}}, {2, {{true, true}, {true, false}, {false, true}}}, {4, {{true, true}}}};
  for (const auto& [size, all] : cases) {
    DecoderOptions options = decoder_options(size);
    options.layer_count = size == 1 ? 2 : 1;
    const std::vector<Step> steps = conversation(options);
    const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
    for (const ExecutorOptions& how : all) {
      expect_same_tokens(run_on_cuda(options, DType::float32, how, steps), expected, text_of(options, how));
    }
  }
}

HEDDLE_TEST(executor_runs_programs_of_the_backend) {
  const DecoderOptions options = decoder_options(2);
  std::vector<Step> steps = conversation(options);
  steps.resize(5);                                    // prefill, and a decode step captured and replayed
  const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
  expect_same_tokens(run_on_cuda_backend(options, DType::float32, steps), expected, "through the backend");
  for (const char* name : {"HEDDLE_CUDA_GRAPHS", "HEDDLE_CUDA_FUSION"}) {
    const Setting off(name, "0");
    expect_same_tokens(run_on_cuda_backend(options, DType::float32, steps), expected, std::string("without ") + name);
  }
}

HEDDLE_TEST(executor_samples_by_each_sequences_own_parameters) {
  const DecoderOptions options = decoder_options(2);
  const std::vector<SamplingParams> sampling = {{}, {0.8f, 0, 1, 0, 7}, {1.2f, 5, 1, 0, 8}, {1, 0, 0.9f, 0, 9}, {0.7f, 0, 1, 0.1f, 10}};
  const std::vector<Step> steps = conversation(options, sampling);
  const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
  expect_same_tokens(run_on_cuda(options, DType::float32, {}, steps), expected, text_of(options, {}));
}

// Lists that grow from step to step, penalties that count a token which the ranks alone know, and log-probabilities, also in graphs.
HEDDLE_TEST(executor_edits_logits_and_tells_logprobs_as_the_cpu_does) {
  for (const int size : {1, 2}) {
    const DecoderOptions options = decoder_options(size);
    const std::vector<SamplingParams> sampling = {
        {.repetition_penalty = 1.3f, .presence_penalty = 0.2f, .frequency_penalty = 0.1f, .answer_start = 0, .logprobs = 3},
        {.temperature = 0.8f, .seed = 7, .presence_penalty = 1, .answer_start = 6},
        {.temperature = 1.2f, .top_k = 5, .seed = 8, .logprobs = 0},
        {.temperature = 1, .top_p = 0.9f, .seed = 9, .frequency_penalty = -0.5f, .answer_start = 0},
        {.logprobs = 20}};
    std::vector<Step> steps = conversation(options, sampling);
    Random random(5);
    for (size_t i = 1; i < steps.size(); ++i) {         // the first has none
      for (size_t sequence = 0; sequence < steps[i].slots.size(); ++sequence) {
        steps[i].edit_starts.push_back(static_cast<int32_t>(steps[i].edits.size()));
        for (int32_t id = static_cast<int32_t>(random.below(3)); id < options.vocab_size; id += 1 + static_cast<int32_t>(random.below(30 / i))) {
          steps[i].edits.push_back({id, static_cast<int32_t>(random.below(4)) - 1, random.uniform(-1, 1)});
        }
      }
      steps[i].edit_starts.push_back(static_cast<int32_t>(steps[i].edits.size()));
    }
    const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
    for (const bool graphs : {true, false}) {
      const ExecutorOptions how{true, graphs};
      const std::vector<RunResult> got = run_on_cuda(options, DType::float32, how, steps);
      expect_same_tokens(got, expected, text_of(options, how));
      for (size_t i = 0; i < got.size(); ++i) {
        const std::vector<TokenLogprob>&mine = got[i].logprobs, &theirs = expected[i].logprobs;
        if (!check(mine.size() == theirs.size() && !mine.empty(), "step ", i, ": ", mine.size(), " logprobs of ", theirs.size())) continue;
        for (size_t k = 0; k < mine.size(); ++k) {
          check(mine[k].id == theirs[k].id, "step ", i, ", logprob ", k, ": expected id ", theirs[k].id, ", got ", mine[k].id);
          check_close(mine[k].logprob, theirs[k].logprob, 1e-4, "step ", i, ", logprob ", k);
        }
      }
    }
  }
}

// Tokens are given, so that every step can be compared by itself.
std::vector<Step> given_tokens(const DecoderOptions& options) {
  Batch batch(options);
  std::vector<Step> steps;
  steps.push_back(batch.step({batch.prompt(0, 5), batch.prompt(1, 1), batch.prompt(2, 16)}));
  steps.push_back(batch.step({batch.prompt(0, 1), batch.prompt(3, 4)}));
  steps.push_back(batch.step({batch.prompt(0, 1), batch.prompt(2, 1), batch.prompt(1, 1)}));
  return steps;
}

void compare_outputs(DecoderOptions options, DType dtype, double tolerance) {
  options.outputs = true;
  options.weights = dtype;
  options.cache = dtype == DType::bfloat16 ? DType::bfloat16 : DType::float32;
  const std::vector<Step> steps = given_tokens(options);
  const std::vector<RunResult> expected = run_on_cpu(options, dtype, steps);
  for (const bool fuse : {true, false}) {
    const ExecutorOptions how{fuse, true};
    const std::string what = std::string(name_of(dtype)) + ", " + text_of(options, how);
    expect_close_outputs(run_on_cuda(options, dtype, how, steps), expected, tolerance, what);
  }
}

HEDDLE_TEST(executor_computes_what_the_cpu_computes_in_float32) {
  for (const int size : {1, 2}) {
    DecoderOptions options = decoder_options(size);
    compare_outputs(options, DType::float32, 1e-5);
    options.bias = true;
    compare_outputs(options, DType::float32, 1e-5);
    options.gated = false;
    options.head_norms = false;
    options.tied = true;
    compare_outputs(options, DType::float32, 1e-5);
  }
}

// The CPU keeps activations in float32, the executor those between operations of a layer in 16 bits.
HEDDLE_TEST(executor_computes_what_the_cpu_computes_in_16_bits) {
  for (const int size : {1, 2}) {
    DecoderOptions options = decoder_options(size);
    options.bias = size == 1;
    compare_outputs(options, DType::bfloat16, 0.03);
    compare_outputs(options, DType::float16, 0.005);
  }
}

HEDDLE_TEST(executor_overlaps_only_programs_without_inputs_and_outputs) {
  DecoderOptions options = decoder_options(1);
  for (const bool outputs : {false, true}) {
    options.outputs = outputs;
    on_cuda_ranks(options, DType::float32, {}, [&](CudaRank& rank) {
      check(rank.executor.overlaps() == !outputs, "outputs ", outputs);
      check((rank.executor.graphs() != nullptr) == !outputs, "graphs with outputs ", outputs);
      check(rank.executor.workspace_bytes() > 0, "bytes of the workspace");
    });
  }
}

HEDDLE_TEST(executor_takes_inputs_and_gives_outputs) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    Node input, relu, output;
    input.op = Op::input;
    relu.op = Op::activation;
    output.op = Op::output;
    input.texts["name"] = "x";
    relu.texts["kind"] = "relu";
    output.texts["name"] = "y";
    relu.inputs = {0};
    output.inputs = {1};
    input.width = relu.width = output.width = 3;
    const ProgramPlan plan = compiled({input, relu, output}, {}, 1, 4, 1);
    cuda::SlotTokens slots(device);
    cuda::EagerSteps eager;
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      cuda::CudaExecutor executor(plan, dtype, device, slots, eager, communicator);
      Step step = step_of({2});
      step.inputs["x"] = {{1.001f, -2, 3, -4, 5, -6}, {2, 3}};
      executor.start(step, kNotCancelled);
      const RunResult result = executor.finish(kNotCancelled);
      const HostMatrix& y = result.outputs.at("y");
      check(y.shape == std::vector<int64_t>({2, 3}), "shape");
      check(y.data == std::vector<float>({1.001f, 0, 3, 0, 5, 0}), name_of(dtype), ": what is read by an output is not rounded");
    }
  });
}

// The sum over the ranks is not taken in place where a rank reads its part again.
HEDDLE_TEST(executor_keeps_a_part_that_is_read_after_the_sum) {
  on_ranks(2, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    std::vector<Node> nodes(5);
    nodes[0].op = Op::input;
    nodes[0].texts["name"] = "x";
    nodes[1].op = Op::activation;
    nodes[1].texts["kind"] = "relu";
    nodes[2].op = Op::all_reduce;
    nodes[3].op = Op::add;
    nodes[4].op = Op::output;
    nodes[4].texts["name"] = "y";
    for (Node& node : nodes) node.width = 2;
    for (const int32_t i : {1, 2, 4}) nodes[static_cast<size_t>(i)].inputs = {i - 1};
    nodes[3].inputs = {1, 2};
    const ProgramPlan plan = compiled(nodes, {}, 2, 4, 1);
    cuda::SlotTokens slots(device);
    cuda::EagerSteps eager;
    for (const bool fuse : {true, false}) {
      cuda::CudaExecutor executor(plan, DType::float32, device, slots, eager, communicator, {fuse, true});
      Step step = step_of({1});
      step.inputs["x"] = {{communicator.rank() == 0 ? 1.0f : 10.0f, -1}, {1, 2}};
      executor.start(step, kNotCancelled);
      const RunResult result = executor.finish(kNotCancelled);
      if (communicator.rank() != 0) continue;
      check(result.outputs.at("y").data == std::vector<float>({12, 0}), "fused ", fuse, ": ", result.outputs.at("y").data[0]);
    }
  });
}

// ---- graphs ----

HEDDLE_TEST(executor_captures_what_comes_a_second_time) {
  for (const int size : {1, 2}) {
    const DecoderOptions options = decoder_options(size);
    on_cuda_ranks(options, DType::float32, {}, [](CudaRank& rank) {
      const auto captured = [&] { return rank.executor.graphs()->captured(); };
      Batch batch(decoder_options(rank.communicator.size()));
      rank.run(batch.step({batch.prompt(0, 3), batch.prompt(1, 2), batch.prompt(2, 1)}));
      check(captured() == 0, "a prefill is not captured");
      rank.run(batch.decode({0, 1, 2}));
      check(captured() == 0, "a first decode step sizes memory");
      rank.run(batch.decode({2, 0, 1}));
      check(captured() == 1, "the second is captured");
      rank.run(batch.decode({0, 1, 2}));
      check(captured() == 1, "the third is replayed");
      for (int i = 0; i < 2; ++i) rank.run(batch.decode({0}));
      check(captured() == 2, "one sequence has a bucket of its own");
      for (int i = 0; i < 2; ++i) rank.run(batch.decode({0}, {{0.5f, 3, 1, 0, 1}}));
      check(captured() == 3, "so has another way of sampling");
      check(rank.executor.graphs()->failure().empty(), "a capture failed: ", rank.executor.graphs()->failure());
    });
  }
}

// As uneven shards do: memory moves on one rank alone.
HEDDLE_TEST(executor_captures_anew_where_memory_moved_on_one_rank) {
  const DecoderOptions options = decoder_options(2);
  Batch batch(options);
  std::vector<Step> steps = {batch.step({batch.prompt(0, 3), batch.prompt(1, 2)})};
  for (int i = 0; i < 4; ++i) steps.push_back(batch.decode({0, 1}));
  steps.push_back(batch.step({batch.prompt(2, 4)}));
  for (int i = 0; i < 4; ++i) steps.push_back(batch.decode({0, 1}));
  const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
  for (const size_t moment : {size_t{3}, size_t{5}}) {  // between replays, and beside an eager step
    on_cuda_ranks(options, DType::float32, {}, [&](CudaRank& rank) {
      std::vector<RunResult> results;
      for (size_t i = 0; i < steps.size(); ++i) {
        if (i == moment && rank.communicator.rank() == 1) {
          for (const cuda::Scratch kind : {cuda::Scratch::linear_input, cuda::Scratch::linear_partial, cuda::Scratch::attention_partial,
                                           cuda::Scratch::sample}) {
            rank.device.scratch(kind, size_t{4} << 20);
          }
        }
        results.push_back(rank.run(steps[i]));
      }
      expect_same_tokens(results, expected, "memory moved before step " + std::to_string(moment));
      check(rank.executor.graphs()->captured() == 1, "captured again");
    });
  }
}

// ---- how a run ends early ----

HEDDLE_TEST(executor_refuses_a_slot_without_a_token) {
  const DecoderOptions options = decoder_options(2);
  on_cuda_ranks(options, DType::float32, {}, [&](CudaRank& rank) {
    Batch batch(options);
    check_throws(ErrorCode::invalid_argument, [&] { rank.executor.start(batch.decode({5}), kNotCancelled); }, "slot 5");
    check(rank.run(batch.step({batch.prompt(0, 3)})).tokens.size() == 1, "nothing was submitted, and the next step runs");
  });
}

HEDDLE_TEST(executor_ends_a_cancelled_run) {
  const DecoderOptions options = decoder_options(1);
  on_cuda_ranks(options, DType::float32, {}, [&](CudaRank& rank) {
    Batch batch(options);
    const std::atomic<bool> cancelled{true};
    check_throws(ErrorCode::closed, [&] { rank.executor.start(batch.step({batch.prompt(0, 3)}), cancelled); }, "a cancelled run");
  });
}

// Rank 1 goes away before its last step, or in it, where kernels of rank 0 wait for it: these end by themselves and leave garbage.
HEDDLE_TEST(executor_ends_when_the_group_is_aborted) {
  for (const bool in_the_step : {false, true}) {
    const DecoderOptions options = decoder_options(2);
    DeviceCommunicators communicators = local_communicators(2);
    std::vector<std::thread> threads;
    for (int index = 0; index < 2; ++index) {
      threads.emplace_back([&, index] {
        const cuda::Device device(0, index);
        auto& communicator = *communicators[static_cast<size_t>(index)];
        communicator.attach(device);
        CudaRank rank(device, communicator, options, DType::float32, {});
        Batch batch(options);
        rank.run(batch.step({batch.prompt(0, 3)}));
        for (int i = 0; i < 3; ++i) rank.run(batch.decode({0}));
        const Step last = batch.decode({0});
        if (index == 0) {
          check_throws(ErrorCode::peer_failed, [&] { rank.run(last); }, "in the step ", in_the_step);
          return;
        }
        if (in_the_step) communicator.barrier();      // with which a step begins
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        communicator.abort("rank 1 went away");
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

#if defined(HEDDLE_CUDA_EMULATED)

// Streams run late, on threads of their own: what the host does too early shows.
HEDDLE_TEST(executor_waits_for_what_runs_late) {
  const Setting late("HEDDLE_EMULATOR_ASYNC", "1");
  for (const int size : {1, 2}) {
    DecoderOptions options = decoder_options(size);
    const std::vector<Step> steps = conversation(options);
    const ExecutorOptions how{true, size == 2};
    const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
    expect_same_tokens(run_on_cuda(options, DType::float32, how, steps), expected, text_of(options, how) + ", late");
  }
  compare_outputs(decoder_options(1), DType::float32, 1e-5);
}

HEDDLE_TEST(executor_cancels_a_step_that_the_device_is_at) {
  const Setting late("HEDDLE_EMULATOR_ASYNC", "1");
  const DecoderOptions options = decoder_options(2);
  std::atomic<bool> cancelled{false};
  DeviceCommunicators communicators = local_communicators(2);
  std::vector<std::thread> threads;
  for (int index = 0; index < 2; ++index) {
    threads.emplace_back([&, index] {
      const cuda::Device device(0, index);
      auto& communicator = *communicators[static_cast<size_t>(index)];
      communicator.attach(device);
      CudaRank rank(device, communicator, options, DType::float32, {});
      if (index == 1) {                               // never runs the step: closes the group, as a closing application does
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        cancelled = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return communicator.abort("the group is closing");
      }
      Batch batch(options);
      const Step step = batch.step({batch.prompt(0, 3)});
      try {  // sampling talks to its peer on the host, so either call may be the one that ends
        rank.executor.start(step, cancelled);
        rank.executor.finish(cancelled);
        record_failure("expected an error, got a result");
      } catch (const Error& error) {
        check(error.code() == ErrorCode::closed || error.code() == ErrorCode::peer_failed, "got ", error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

HEDDLE_TEST(executor_names_the_operation_that_failed) {
  const DecoderOptions options = decoder_options(1);
  emulator::print_failures(false);
  on_ranks(1, [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    {
      CudaRank rank(device, communicator, options, DType::float32, {});
      Batch batch(options);
      const Step step = batch.step({batch.prompt(0, 3)});
      emulator::fail_launch(1);
      try {
        rank.run(step);
        record_failure("expected device_failed, got a result");
      } catch (const Error& error) {
        check(error.code() == ErrorCode::device_failed, "got ", name_of(error.code()));
        check(std::string(error.what()).rfind("embed", 0) == 0, "expected the operation's name, got ", error.what());
      }
    }
    emulator::fail_launch(0);
    emulator::repair_devices();
  });
  emulator::print_failures(true);
}

HEDDLE_TEST(executor_gives_everything_back) {
  const emulator::Counters before = emulator::counters();
  const DecoderOptions options = decoder_options(2);
  std::vector<Step> steps = conversation(options);
  steps.resize(5);
  run_on_cuda(options, DType::float32, {}, steps);
  const emulator::Counters after = emulator::counters();
  check(after.device_bytes == before.device_bytes, "device memory: ", after.device_bytes - before.device_bytes);
  check(after.host_bytes == before.host_bytes, "page-locked memory: ", after.host_bytes - before.host_bytes);
  check(after.graphs == before.graphs && after.graph_execs == before.graph_execs, "graphs");
  check(after.events == before.events && after.streams == before.streams, "events and streams");
  check(after.graph_captures > before.graph_captures && after.graph_launches > before.graph_launches, "graphs were used");
}

HEDDLE_TEST(executor_launches_five_kernels_a_layer) {
  const auto launches = [](int64_t layers) {
    DecoderOptions options = decoder_options(1);
    options.layer_count = layers;
    int64_t count = 0;
    on_cuda_ranks(options, DType::float32, {true, false}, [&](CudaRank& rank) {
      Batch batch(options);
      rank.run(batch.step({batch.prompt(0, 3)}));
      const int64_t before = emulator::counters().launches;
      rank.run(batch.decode({0}));
      count = emulator::counters().launches - before;
    });
    return count;
  };
  const int64_t more = launches(3) - launches(2);
  check(more >= 5 && more <= 7, "a layer takes ", more, " launches");   // split products and attention may take one more each
}

#endif  // HEDDLE_CUDA_EMULATED

}  // namespace
}  // namespace heddle::test
