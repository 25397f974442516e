// The CUDA backend of a rank as the rest of heddle sees it, and what it stands on: device, memory, the step in place.
#include <cstdlib>

#include "cuda/cuda_backend.h"
#include "cuda/operations.h"
#include "decoder_runs.h"
#include "on_device.h"

namespace heddle::test {
namespace {

using cuda::Device;

std::string message_of_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

// A backend in a group of one.
struct OneRank {
  DeviceCommunicators communicators = local_communicators(1);
  cuda::CudaBackend backend;

  explicit OneRank(DType dtype = DType::float32) : backend(0, 0, dtype, *communicators[0], nullptr) {}
  cuda::DeviceCommunicator& communicator() { return *communicators[0]; }
};

std::vector<int32_t> downloaded(Backend& backend, const int32_t* data, int64_t count) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  backend.download(values.data(), data, values.size() * sizeof(int32_t));
  return values;
}

HEDDLE_TEST(cuda_device_says_what_it_is) {
  const Device device(0, 3);
  check(device.ordinal() == 0 && device.rank() == 3, "ordinal and rank");
  check(!device.name().empty() && device.sm_count() > 0 && device.compute_capability() >= 80, device.name(), ": properties");
  check(device.shared_bytes_per_block() >= 48 * 1024, "shared memory ", device.shared_bytes_per_block());
  check_throws(ErrorCode::unavailable, [] { Device(4096); }, "a GPU that is not there");
  check_throws(ErrorCode::unavailable, [] { Device(-1); }, "a GPU below 0");
}

HEDDLE_TEST(cuda_device_scratch_grows_zeroed_and_says_that_it_moved) {
  const Device device(0);
  const auto zeroed = [&](void* memory, size_t bytes) {
    std::vector<uint8_t> values(bytes);
    to_host(device, values.data(), memory, bytes);
    return std::all_of(values.begin(), values.end(), [](uint8_t value) { return value == 0; });
  };
  void* first = device.scratch(cuda::Scratch::sample, 1000);
  const uint64_t epoch = device.scratch_epoch();
  check(zeroed(first, 1000), "new scratch is zero");
  cuda::check(cudaMemsetAsync(first, 1, 1000, device.stream()), "test");
  check(device.scratch(cuda::Scratch::sample, 900) == first && device.scratch_epoch() == epoch, "what is there is given again");
  void* other = device.scratch(cuda::Scratch::gather, 1000);
  check(other != first && device.scratch_epoch() > epoch, "kinds are apart");
  const uint64_t before = device.scratch_epoch();
  void* grown = device.scratch(cuda::Scratch::sample, 1 << 20);
  check(grown != first && device.scratch_epoch() > before && zeroed(grown, 1 << 20), "larger scratch is elsewhere, and zero");
  check(!zeroed(first, 1000), "what was outgrown stays readable");
}

HEDDLE_TEST(cuda_device_refuses_to_grow_scratch_during_a_capture) {
  const Device device(0);
  void* memory = device.scratch(cuda::Scratch::sample, 100);
  cuda::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal), "test");
  check(device.capturing(), "capturing");
  check(device.scratch(cuda::Scratch::sample, 100) == memory, "enough is there");
  check_throws(ErrorCode::device_failed, [&] { device.scratch(cuda::Scratch::sample, 100 << 20); }, "growth");
  cudaGraph_t graph = nullptr;
  cuda::check(cudaStreamEndCapture(device.stream(), &graph), "test");
  const cuda::Graph owned(graph);
  check(!device.capturing(), "no longer capturing");
}

HEDDLE_TEST(cuda_runtime_errors_name_place_and_cause) {
  const std::string text = message_of_error([] { cuda::check(cudaErrorInvalidValue, "somewhere"); });
  check(contains(text, "somewhere") && contains(text, "cudaErrorInvalidValue"), "text: ", text);
  check_throws(ErrorCode::device_failed, [] { cuda::check(cudaErrorInvalidValue, "test"); }, "invalid value");
  check_throws(ErrorCode::out_of_memory, [] { cuda::check(cudaErrorMemoryAllocation, "test"); }, "no memory");
}

HEDDLE_TEST(cuda_backend_says_which_gpu_it_has) {
  OneRank rank;
  check(rank.backend.description() == "cuda:0 " + rank.backend.device().name(), "description ", rank.backend.description());
}

HEDDLE_TEST(cuda_backend_memory_is_zeroed_and_aligned) {
  OneRank rank;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{4096}, (size_t{5} << 20) + 3}) {
    const Buffer buffer = rank.backend.allocate(bytes);
    check(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0 && buffer.bytes() == bytes, bytes, " bytes are not aligned");
    std::vector<uint8_t> values(bytes, 1);
    rank.backend.download(values.data(), buffer.data(), bytes);
    check(std::all_of(values.begin(), values.end(), [](uint8_t value) { return value == 0; }), bytes, " bytes are not zeroed");
  }
}

HEDDLE_TEST(cuda_backend_too_much_memory_says_what_is_free_and_breaks_nothing) {
  OneRank rank;
  check_throws(ErrorCode::out_of_memory, [&] { rank.backend.allocate(size_t{1} << 46); }, "64 TiB");
  const std::string text = message_of_error([&] { rank.backend.allocate(size_t{1} << 46); });
  check(contains(text, "rank 0") && contains(text, std::to_string(size_t{1} << 46)) && contains(text, "free"), "text: ", text);
  const std::string scratch = message_of_error([&] { rank.backend.device().scratch(cuda::Scratch::sample, size_t{1} << 46); });
  check(contains(scratch, "rank 0") && contains(scratch, "sampling") && contains(scratch, "free"), "text: ", scratch);
  check(rank.backend.device().scratch(cuda::Scratch::sample, 100) != nullptr, "scratch after a request that failed");
  check(rank.backend.allocate(100).data() != nullptr, "a later request");
  rank.backend.synchronize();
}

HEDDLE_TEST(cuda_backend_uploads_what_it_downloads) {
  OneRank rank;
  const std::vector<float> values = Random(1).uniform_vector(5000);
  const Buffer buffer = rank.backend.allocate(values.size() * sizeof(float));
  rank.backend.upload(buffer.data(), values.data(), buffer.bytes());
  std::vector<float> back(values.size());
  rank.backend.download(back.data(), buffer.data(), buffer.bytes());
  check(back == values, "the same bytes");
  rank.backend.upload(nullptr, nullptr, 0);
  rank.backend.download(nullptr, nullptr, 0);
}

HEDDLE_TEST(cuda_backend_step_outlives_the_message) {
  OneRank rank;
  auto step = std::make_unique<Step>(step_of({2, 1}, 4));
  step->tokens = {7, 8, 9};
  step->block_table = {0, 1, 2, 3};
  const StepView view = rank.backend.begin_step(*step);
  step.reset();
  check(view.token_count == 3 && view.sequence_count == 2 && view.blocks_per_sequence == 2, "counts");
  check(downloaded(rank.backend, view.tokens, 3) == std::vector<int32_t>({7, 8, 9}), "tokens");
  check(downloaded(rank.backend, view.positions, 3) == std::vector<int32_t>({4, 5, 4}), "positions");
  check(downloaded(rank.backend, view.sequence_starts, 3) == std::vector<int32_t>({0, 2, 3}), "sequence starts");
  check(downloaded(rank.backend, view.slots, 2) == std::vector<int32_t>({0, 1}), "slots");
  check(downloaded(rank.backend, view.block_table, 4) == std::vector<int32_t>({0, 1, 2, 3}), "block table");
  check(view.sampling[1].temperature == 0, "without sampling parameters a step is greedy");
}

HEDDLE_TEST(cuda_backend_slots_hand_on_the_sampled_token) {
  OneRank rank;
  Step step = step_of({1, 1});
  step.slots = {5, 2};
  const DeviceMatrix logits(rank.backend.device(), Matrix(2, 4, {0, 3, 1, 2, 9, 0, 1, 2}));
  int32_t tokens[2] = {-1, -1};
  rank.backend.sample(rank.backend.begin_step(step), logits.view(), {0, 4}, rank.communicator(), tokens);
  check(tokens[0] == 1 && tokens[1] == 0, "greedy tokens ", tokens[0], ", ", tokens[1]);

  Step next = step_of({1, 1});
  next.tokens = {-1 - 5, -1 - 2};
  const std::vector<float> table = Random(4).uniform_vector(4 * 8);
  const DeviceMatrix y(rank.backend.device(), 2, 8);
  rank.backend.embed(rank.backend.begin_step(next), tensor_on(rank.backend.device(), table, {4, 8}), {}, y.view());
  const std::vector<float> rows = y.read();
  check(std::equal(rows.begin(), rows.begin() + 8, table.begin() + 8), "the token of slot 5");
  check(std::equal(rows.begin() + 8, rows.end(), table.begin()), "the token of slot 2");

  next.tokens = {-1 - 5, -1 - 3};
  check_throws(ErrorCode::invalid_argument, [&] { rank.backend.begin_step(next); }, "slot 3 was never sampled");
  const std::string text = message_of_error([&] { rank.backend.begin_step(next); });
  check(text == "step: expected a token sampled in slot 3, got none so far", "as the CPU says it: ", text);
}

HEDDLE_TEST(cuda_step_pads_to_its_room) {
  const Device device(0);
  Step step = step_of({2, 1}, 8);
  step.tokens = {7, 8, 9};
  step.slots = {4, 6};
  step.block_table = {1, 2, 3, 4, 5, 6};
  step.sampling = {{.temperature = 0.5f, .top_k = 3, .top_p = 0.25f, .min_p = 0.125f, .seed = 77}, {}};
  const StepOnDevice on(device, step, {5, 4, 2, 10});
  const auto ints = [&](const int32_t* data, int64_t count) { return read_int32(device, data, count); };
  cuda::StepCounts counts = {};
  to_host(device, &counts, on.step.counts, sizeof counts);
  check(counts.tokens == 3 && counts.sequences == 2 && counts.blocks_per_sequence == 3, "counts are the step's");
  check(ints(on.step.tokens, 5) == std::vector<int32_t>({7, 8, 9, 0, 0}), "tokens");
  check(ints(on.step.positions, 5) == std::vector<int32_t>({8, 9, 8, 0, 0}), "positions");
  check(ints(on.step.sequence_of_token, 5) == std::vector<int32_t>({0, 0, 1, 0, 0}), "sequences of the tokens");
  check(ints(on.step.sequence_starts, 5) == std::vector<int32_t>({0, 2, 3, 3, 3}), "padded sequences are empty");
  check(ints(on.step.slots, 4) == std::vector<int32_t>({4, 6, 0, 0}), "slots");
  check(ints(on.step.block_table, 6) == step.block_table, "block table");
  cuda::DeviceSampling sampling[2];
  to_host(device, sampling, on.step.sampling, sizeof sampling);
  check(sampling[0].temperature == 0.5f && sampling[0].top_k == 3 && sampling[0].top_p == 0.25f && sampling[0].min_p == 0.125f &&
            sampling[0].seed == 77 && sampling[1].temperature == 0 && sampling[1].top_p == 1,
        "sampling");
}

HEDDLE_TEST(cuda_step_knows_its_shape) {
  Step step = step_of({2, 5, 1}, 8);
  const cuda::StepShape shape = cuda::shape_of(step);
  check(shape.tokens == 8 && shape.sequences == 3 && shape.longest_part == 5 && shape.longest_context == 13, "shape");
}

// The same room has the same addresses, so that a graph may keep them; growth moves them and says so.
HEDDLE_TEST(cuda_step_moves_only_when_it_grows) {
  const Device device(0);
  cuda::SlotTokens slots(device);
  cuda::StepState state(device, slots, 8, 4);
  const cuda::StepShape room = {4, 4, 1, 100};
  const cuda::DeviceStep first = state.submit(step_of({1, 1}), room);
  for (int i = 0; i < 10; ++i) {                      // more than the ring has entries
    Step step = step_of({1, 1, 1}, i);
    step.block_table.assign(static_cast<size_t>(3 * i), i);
    const cuda::DeviceStep placed = state.submit(step, room);
    check(placed.tokens == first.tokens && placed.block_table == first.block_table && state.epoch() == 0, "the same places");
    check(read_int32(device, placed.positions, 3) == std::vector<int32_t>(3, i), "step ", i);
  }
  Step large = step_of({1, 1});
  large.block_table.assign(2 * 10000, 3);
  const cuda::DeviceStep moved = state.submit(large, room);
  check(state.epoch() == 1 && read_int32(device, moved.block_table, 20000) == large.block_table, "a longer block table");
  Step wide = step_of(std::vector<int32_t>(50, 1), 2);
  const cuda::DeviceStep wider = state.submit(wide, cuda::shape_of(wide));
  check(state.epoch() == 2 && wider.sampled != moved.sampled, "more sequences than there was room for");
  check_throws(ErrorCode::invalid_argument, [&] { state.submit(wide, room); }, "a step beyond its room");
}

HEDDLE_TEST(cuda_step_refuses_to_grow_during_a_capture) {
  const Device device(0);
  cuda::SlotTokens slots(device);
  cuda::StepState state(device, slots, 2, 2);
  Step step = step_of({1, 1});
  step.block_table.assign(100000, 1);
  cuda::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal), "test");
  check_throws(ErrorCode::device_failed, [&] { state.submit(step, cuda::shape_of(step)); }, "growth");
  cudaGraph_t graph = nullptr;
  cuda::check(cudaStreamEndCapture(device.stream(), &graph), "test");
  const cuda::Graph owned(graph);
}

HEDDLE_TEST(cuda_backend_runs_programs_by_its_executor_or_node_by_node) {
  OneRank rank;
  check(rank.backend.compile({}, rank.communicator()) != nullptr, "its executor");
  const Variable fusion("HEDDLE_CUDA_FUSION", "0");
  check(rank.backend.compile({}, rank.communicator()) == nullptr, "node by node");
}

// Tokens of a program on a group of CUDA backends, as ranks run it.
std::vector<RunResult> run_on_backends(const DecoderOptions& options, DType dtype, const std::vector<Step>& steps) {
  std::vector<RunResult> results;
  DeviceCommunicators communicators = local_communicators(options.size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.size; ++rank) {
    threads.emplace_back([&, rank] {
      cuda::DeviceCommunicator& communicator = *communicators[static_cast<size_t>(rank)];
      try {
        const auto backend = cuda::create_backend(0, rank, dtype, communicator, nullptr);
        const Decoder decoder(options, rank);
        Program program(message_of(decoder), tensors_on(*backend, decoder), *backend, communicator);
        for (const Step& step : steps) {
          RunResult result = program.run(step, kNotCancelled);
          if (rank == 0) results.push_back(std::move(result));
        }
        communicator.barrier();
      } catch (const std::exception& error) {
        record_failure("rank " + std::to_string(rank) + ": " + error.what());
        communicator.abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

void check_against_cpu(const DecoderOptions& options, const std::string& what) {
  const std::vector<SamplingParams> sampling = {{.temperature = 1, .top_k = 10, .seed = 4},
                                                {.temperature = 0.8f, .top_p = 0.9f, .seed = 5}};
  Batch batch(options);
  std::vector<Step> steps = {batch.step({batch.prompt(0, 5), batch.prompt(3, 1)}, sampling)};
  for (int i = 0; i < 3; ++i) steps.push_back(batch.decode({3, 0}, sampling));
  const std::vector<RunResult> expected = run_on_cpu(options, DType::float32, steps);
  const std::vector<RunResult> actual = run_on_backends(options, DType::float32, steps);
  if (!check(actual.size() == expected.size(), what, ": expected ", expected.size(), " results, got ", actual.size())) return;
  for (size_t i = 0; i < expected.size(); ++i) check(actual[i].tokens == expected[i].tokens, what, ": tokens of step ", i);
}

HEDDLE_TEST(cuda_backend_gives_the_tokens_of_the_cpu_either_way) {
  for (const int size : {1, 2}) {
    DecoderOptions options;
    options.size = size;
    options.bias = true;
    check_against_cpu(options, "executor, size " + std::to_string(size));
    const Variable fusion("HEDDLE_CUDA_FUSION", "0");
    check_against_cpu(options, "node by node, size " + std::to_string(size));
  }
}

}  // namespace
}  // namespace heddle::test
