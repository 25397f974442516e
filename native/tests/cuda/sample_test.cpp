// Sampling on the device against the CPU's: the same tokens for every kind of sampling, at every size, whatever the logits are.
#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "comm/local/local.h"
#include "cpu/logprobs.h"
#include "cpu/sample.h"
#include "cuda/logprobs.h"
#include "cuda/sample.h"
#include "cuda/sample_plan.h"
#include "on_device.h"
#include "rank_threads.h"

namespace heddle::test {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

using Sampling = std::vector<SamplingParams>;
using Tokens = std::vector<int32_t>;

// One decode step for every entry; sequence i keeps its token in slot 3 * i.
Step sampling_step(const Sampling& sampling, int32_t position) {
  Step step = step_of(std::vector<int32_t>(sampling.size(), 1), position);
  for (size_t i = 0; i < step.slots.size(); ++i) step.slots[i] = static_cast<int32_t>(3 * i);
  step.sampling = sampling;
  return step;
}

Tokens on_cpu(const Matrix& logits, const Sampling& sampling, int32_t position) {
  const auto communicators = comm::create_local(1);
  const Step step = sampling_step(sampling, position);
  const StepView view = {step.token_count(),          step.sequence_count(), 0,       step.tokens.data(), step.positions.data(),
                         step.sequence_starts.data(), step.slots.data(),     nullptr, step.sampling.data()};
  Tokens tokens(sampling.size(), -1);
  Matrix copy = logits;
  cpu::sample(view, copy.view(), {0, logits.width}, *communicators[0], tokens.data());
  return tokens;
}

// A rank's columns, dealt out as a sharded head does: padding behind them must not win, and neither may rows of a bucket.
struct Shard {
  SampleSpec spec;
  Matrix logits;
};
Shard shard_of(const Matrix& logits, int64_t first, int64_t end, int64_t width, int64_t rows) {
  Shard shard{{first, logits.width}, Matrix(rows, width, std::vector<float>(static_cast<size_t>(rows * width), 1e9f))};
  for (int64_t row = 0; row < logits.rows; ++row) {
    for (int64_t i = first; i < std::min(end, logits.width); ++i) {
      shard.logits.values[static_cast<size_t>(row * width + i - first)] = logits.row(row)[i];
    }
  }
  return shard;
}

// The tokens of a rank, and a check that they are in their slots too.
Tokens sample_shard(const cuda::Device& device, const Shard& shard, const Sampling& sampling, int32_t position,
                    cuda::DeviceCommunicator& communicator) {
  const Step step = sampling_step(sampling, position);
  const StepOnDevice on(device, step, {shard.logits.rows, shard.logits.rows, 1, position + 1});
  const DeviceMatrix logits(device, shard.logits);
  cuda::SampleCall call{on.step, on.shape, logits.view(), shard.spec, cuda::sample_methods(step, shard.spec.vocab_size), 0};
  call.most_columns = cuda::most_columns(logits.view().width, communicator);
  cuda::sample(device, call, communicator);
  const Tokens tokens = read_int32(device, on.step.sampled, step.sequence_count());
  const Tokens slots = read_int32(device, on.step.last_tokens, 3 * step.sequence_count() + 1);
  for (size_t i = 0; i < tokens.size(); ++i) check(slots[3 * i] == tokens[i], "slot of sequence ", i);
  return tokens;
}

Tokens on_one(const Matrix& logits, const Sampling& sampling, int32_t position = 6, int64_t padded_rows = 0) {
  const cuda::Device device(0);
  SingleRank communicator(device);
  const Shard shard = shard_of(logits, 0, logits.width, logits.width, logits.rows + padded_rows);
  return sample_shard(device, shard, sampling, position, communicator);
}

// `widths` of the ranks; the ids are dealt out in rank order, as many as there are.
Tokens on_ranks_of(const std::vector<int64_t>& widths, const Matrix& logits, const Sampling& sampling, int32_t position = 6) {
  std::vector<Tokens> tokens(widths.size());
  on_ranks(static_cast<int>(widths.size()), [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    int64_t first = 0;
    for (size_t i = 0; i < rank; ++i) first += widths[i];
    const Shard shard = shard_of(logits, first, first + widths[rank], widths[rank], logits.rows);
    tokens[rank] = sample_shard(device, shard, sampling, position, communicator);
  });
  for (const Tokens& other : tokens) check(other == tokens[0], "ranks disagree");
  return tokens[0];
}
Tokens at_size(int size, const Matrix& logits, const Sampling& sampling, int32_t position = 6) {
  if (size == 1) return on_one(logits, sampling, position);
  return on_ranks_of(std::vector<int64_t>(static_cast<size_t>(size), (logits.width + size - 1) / size), logits, sampling, position);
}

Sampling all_kinds() {
  return {{.temperature = 0},
          {.temperature = 1},
          {.temperature = 0.7f, .seed = 5},
          {.temperature = 1, .min_p = 0.05f, .seed = 1},
          {.temperature = 1.5f, .top_k = 1, .seed = 2},
          {.temperature = 1.5f, .top_k = 20, .seed = 2},
          {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f, .seed = 3},
          {.temperature = 1, .top_p = 0.8f, .seed = 4},
          {.temperature = 1.2f, .top_p = 0.95f, .min_p = 0.01f, .seed = ~uint64_t{0}},
          {.temperature = 2, .top_k = 1500, .seed = 6},
          {.temperature = 2, .top_k = 1500, .top_p = 0.7f, .seed = 7},
          {.temperature = 1, .top_k = 1000000, .seed = 8}};
}

Matrix random_logits(int64_t rows, int64_t vocab, uint64_t seed, float low = -6, float high = 6) {
  return Matrix(rows, vocab, Random(seed).uniform_vector(static_cast<size_t>(rows * vocab), low, high));
}

Matrix rows_of(const std::vector<float>& row, int64_t rows) {
  Matrix matrix(rows, static_cast<int64_t>(row.size()));
  for (int64_t i = 0; i < rows; ++i) std::copy(row.begin(), row.end(), matrix.values.begin() + i * matrix.width);
  return matrix;
}

void check_tokens(const Tokens& actual, const Tokens& expected, const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const int32_t token = i < actual.size() ? actual[i] : -1;
    check(token == expected[i], what, ", sequence ", i, ": expected ", expected[i], ", got ", token);
  }
}

HEDDLE_TEST(cuda_sample_gives_the_tokens_of_the_cpu_at_every_size) {
  const Sampling sampling = all_kinds();
  for (const int64_t vocab : {1, 3, 11, 2000, 9001}) {
    for (int round = 0; round < 4; ++round) {
      Matrix logits = random_logits(static_cast<int64_t>(sampling.size()), vocab, static_cast<uint64_t>(round * 100 + vocab));
      if (round == 0) std::fill(logits.values.begin(), logits.values.end(), 0.25f);
      const Tokens expected = on_cpu(logits, sampling, round);
      for (const int size : {1, 2, 3, 4}) {
        const std::string what = "vocabulary " + std::to_string(vocab) + " size " + std::to_string(size);
        check_tokens(at_size(size, logits, sampling, round), expected, what);
      }
    }
  }
}

// Each kind alone in its step: other kernels run than for a mixture, and other messages are exchanged.
HEDDLE_TEST(cuda_sample_gives_the_tokens_of_the_cpu_for_each_kind_alone) {
  for (const SamplingParams& params : all_kinds()) {
    const Matrix logits = random_logits(3, 5003, 17);
    const Sampling sampling(3, params);
    const Tokens expected = on_cpu(logits, sampling, 9);
    for (const int size : {1, 3}) {
      check_tokens(at_size(size, logits, sampling, 9), expected,
                   "temperature " + std::to_string(params.temperature) + " top-k " + std::to_string(params.top_k) + " top-p " +
                       std::to_string(params.top_p) + " min-p " + std::to_string(params.min_p) + " size " + std::to_string(size));
    }
  }
}

HEDDLE_TEST(cuda_sample_takes_shards_of_different_widths) {
  const Sampling sampling = all_kinds();
  const Matrix logits = random_logits(static_cast<int64_t>(sampling.size()), 5000, 3);
  const Tokens expected = on_cpu(logits, sampling, 6);
  check_tokens(on_ranks_of({3000, 0, 2000}, logits, sampling), expected, "3000, 0, 2000");
  check_tokens(on_ranks_of({7, 4993}, logits, sampling), expected, "7, 4993");
  check_tokens(on_ranks_of({4990, 64}, logits, sampling), expected, "4990, 64 with padding");
}

HEDDLE_TEST(cuda_sample_gives_the_tokens_of_the_cpu_for_a_large_vocabulary) {
  const Sampling sampling = {{.temperature = 0},
                             {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .seed = 1},
                             {.temperature = 1, .top_k = 1024, .top_p = 0.99f, .seed = 2},
                             {.temperature = 1, .seed = 3},
                             {.temperature = 1, .top_p = 0.9f, .seed = 4},
                             {.temperature = 3, .top_p = 0.999f, .min_p = 1e-4f, .seed = 5},   // more than a list holds
                             {.temperature = 1, .top_k = 30000, .top_p = 0.5f, .seed = 6},
                             {.temperature = 1, .min_p = 0.1f, .seed = 7}};
  for (const float spread : {4.0f, 12.0f}) {
    const Matrix logits = random_logits(static_cast<int64_t>(sampling.size()), 151936, 5, -spread, spread);
    const Tokens expected = on_cpu(logits, sampling, 100);
    for (const int size : {1, 2}) check_tokens(at_size(size, logits, sampling, 100), expected, "size " + std::to_string(size));
  }
}

HEDDLE_TEST(cuda_sample_keeps_exactly_k_with_the_lowest_ids_of_equal_logits) {
  std::vector<float> row(6000, 1.0f);
  row[10] = 2;
  for (const int32_t top_k : {2, 64, 1000, 1024, 1025, 3000}) {
    Sampling sampling;
    for (uint64_t seed = 0; seed < 12; ++seed) sampling.push_back({.temperature = 50, .top_k = top_k, .seed = seed});
    const Matrix logits = rows_of(row, static_cast<int64_t>(sampling.size()));
    const Tokens expected = on_cpu(logits, sampling, 1);
    for (const int32_t token : expected) check(token < top_k || token == 10, "the CPU kept id ", token, " with top-k ", top_k);
    for (const int size : {1, 2}) check_tokens(at_size(size, logits, sampling, 1), expected, "top-k " + std::to_string(top_k));
  }
}

// With equal logits the nucleus ends among equal keys, so that the ids decide.
HEDDLE_TEST(cuda_sample_ends_a_nucleus_as_the_cpu_does) {
  Sampling sampling;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    sampling.push_back({.temperature = 1, .top_p = 0.3f, .seed = seed});
    sampling.push_back({.temperature = 1, .top_k = 100, .top_p = 0.3f, .seed = seed});
    sampling.push_back({.temperature = 1, .top_p = 1e-6f, .seed = seed});
    sampling.push_back({.temperature = 1, .top_p = 0, .seed = seed});
  }
  std::vector<float> steps(1000);
  for (size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<float>(i % 7) * 0.5f;
  for (const std::vector<float>& row : {std::vector<float>(1000, 0.5f), steps}) {
    const Matrix logits = rows_of(row, static_cast<int64_t>(sampling.size()));
    const Tokens expected = on_cpu(logits, sampling, 1);
    for (const int size : {1, 2}) check_tokens(at_size(size, logits, sampling, 1), expected, "size " + std::to_string(size));
  }
}

HEDDLE_TEST(cuda_sample_survives_logits_that_are_no_numbers) {
  const Sampling sampling = all_kinds();
  const auto run = [&](const std::vector<float>& row, const std::string& what) {
    const Matrix logits = rows_of(row, static_cast<int64_t>(sampling.size()));
    const Tokens expected = on_cpu(logits, sampling, 6);
    for (const int size : {1, 2, 4}) check_tokens(at_size(size, logits, sampling), expected, what + ", size " + std::to_string(size));
    return expected;
  };
  for (const int32_t token : run(std::vector<float>(40, kNan), "NaN alone")) check(token == 0, "NaN alone: token ", token);
  for (const int32_t token : run(std::vector<float>(40, -kInfinity), "-infinity alone")) check(token == 0, "-infinity: token ", token);
  std::vector<float> row(40, kNan);
  row[3] = -kInfinity;
  row[29] = -1;
  for (const int32_t token : run(row, "one number")) check(token == 29, "one number among NaN: token ", token);
  row[31] = kInfinity;
  for (const int32_t token : run(row, "infinity")) check(token == 31, "infinity: token ", token);
  row[33] = kInfinity;
  run(row, "two infinities");
  row.assign(40, 3e38f);
  row[7] = -3e38f;
  run(row, "huge logits");
  row.assign(40, -0.0f);
  row[5] = 0.0f;
  run(row, "zeros of both signs");
}

HEDDLE_TEST(cuda_sample_extreme_parameters_still_choose) {
  const Matrix one = random_logits(1, 50, 8, -4, 4);
  const Sampling sampling = {{.temperature = 1e-30f},
                             {.temperature = 1e-40f},
                             {.temperature = 1e-40f, .top_k = 5},
                             {.temperature = 1e-40f, .top_p = 0.9f},
                             {.temperature = 1e30f, .top_p = 0.9f},
                             {.temperature = 1, .top_p = 0},
                             {.temperature = 1, .top_k = 7, .top_p = 1e-9f},
                             {.temperature = 1, .min_p = 1},
                             {.temperature = 1, .min_p = 7},
                             {.temperature = 1, .top_p = 0.99f, .min_p = 1},
                             {.temperature = 1, .top_k = 1},
                             {.temperature = kNan},
                             {.temperature = -1}};
  const Matrix logits = rows_of(one.values, static_cast<int64_t>(sampling.size()));
  const Tokens expected = on_cpu(logits, sampling, 6);
  for (const int size : {1, 3}) check_tokens(at_size(size, logits, sampling), expected, "size " + std::to_string(size));
}

HEDDLE_TEST(cuda_sample_takes_no_parameters_as_greedy) {
  const cuda::Device device(0);
  SingleRank communicator(device);
  const Step step = step_of({1, 1}, 3);
  const StepOnDevice on(device, step);
  const DeviceMatrix logits(device, Matrix(2, 4, {0, 3, 1, 2, 9, 0, 1, 2}));
  cuda::sample(device, {on.step, on.shape, logits.view(), {0, 4}, cuda::sample_methods(step, 4), 0}, communicator);
  check(read_int32(device, on.step.sampled, 2) == Tokens({1, 0}), "greedy tokens");
}

HEDDLE_TEST(cuda_sample_leaves_padded_rows_alone) {
  const Sampling sampling = all_kinds();
  const auto sequences = static_cast<int64_t>(sampling.size());
  const Matrix logits = random_logits(sequences, 300, 2);
  check_tokens(on_one(logits, sampling, 6, 20), on_cpu(logits, sampling, 6), "20 padded rows");
}

// As in a captured graph: the same launches, with other parameters of the same methods in the arrays.
HEDDLE_TEST(cuda_sample_reads_parameters_on_the_device) {
  const cuda::Device device(0);
  SingleRank communicator(device);
  const Matrix logits = random_logits(2, 500, 6);
  const DeviceMatrix on_device(device, logits);
  cuda::SlotTokens slots(device);
  cuda::StepState state(device, slots, 2, 2);
  const Sampling first = {{.temperature = 1, .top_k = 32, .seed = 1}, {.temperature = 0}};
  const Sampling second = {{.temperature = 0}, {.temperature = 2, .top_k = 17, .top_p = 0.9f, .seed = 9}};
  const cuda::SampleMethods methods = cuda::sample_methods(sampling_step(first, 0), 500);
  for (const Sampling& sampling : {first, second}) {
    const Step step = sampling_step(sampling, 4);
    const cuda::StepShape shape = cuda::shape_of(step);
    const cuda::DeviceStep placed = state.submit(step, shape);
    cuda::sample(device, {placed, shape, on_device.view(), {0, 500}, methods, 0}, communicator);
    check_tokens(read_int32(device, placed.sampled, 2), on_cpu(logits, sampling, 4), "same launches");
  }
}

HEDDLE_TEST(cuda_sample_methods_are_the_union_over_the_sequences) {
  const auto methods = [](const Sampling& sampling) { return cuda::sample_methods(sampling_step(sampling, 0), 5000); };
  check(methods({{.temperature = 0}}) == cuda::SampleMethods{.greedy = true}, "greedy");
  check(methods({{.temperature = 1}}) == cuda::SampleMethods{.noise = true}, "noise");
  check(methods({{.temperature = 1, .top_k = 5000, .min_p = 0.1f}}) == cuda::SampleMethods{.noise = true, .min_p = true}, "min-p");
  check(methods({{.temperature = 1, .top_k = 5}, {.temperature = 1, .top_k = 33}}) ==
            cuda::SampleMethods{.candidates = true, .most_candidates = 64},
        "top-k, rounded up");
  check(methods({{.temperature = 1, .top_k = 1025}}) == cuda::SampleMethods{.all_logits = true}, "large top-k");
  check(methods({{.temperature = 0}, {.temperature = 1, .top_p = 0.5f}}) == cuda::SampleMethods{.greedy = true, .all_logits = true},
        "both");
}

HEDDLE_TEST(cuda_sample_plan_shortens_long_candidate_lists) {
  cuda::SampleCall call;
  call.shape = {1, 1, 1, 1};
  call.logits = {nullptr, DType::float32, 1, 151936};
  call.methods = {.candidates = true, .most_candidates = 32};
  check(cuda::plan_sample(call, 1).candidates == 38 * 32, "one round for the usual top-k");
  call.methods.most_candidates = 1024;
  check(cuda::plan_sample(call, 1).candidates == 10 * 1024, "a second round where the list would be long");
  call.shape.sequences = 256;
  call.logits.width = 151936 / 8;
  check(cuda::plan_sample(call, 8).candidates == 1024, "ranks exchange no more than they must");
  check(cuda::plan_sample(call, 8).bytes % 16 == 0, "messages are whole vectors");
}


// ---- bias, penalties, log-probabilities ----

struct Told {
  Tokens tokens;
  std::vector<TokenLogprob> logprobs;
};

// Every way of sampling, with lists of edits and without, asking for logprobs and not. Sequence i ends with token 3 * i + 1.
Step edited_step(int64_t vocab, int32_t position) {
  Sampling sampling = all_kinds();
  Step step;
  for (size_t i = 0; i < sampling.size(); ++i) {
    SamplingParams& params = sampling[i];
    if (i % 3 != 0) {
      params.repetition_penalty = 1.3f;
      params.presence_penalty = 0.5f;
      params.frequency_penalty = -0.25f;
      params.answer_start = i % 2 == 0 ? 0 : position + 1;
    }
    params.logprobs = i % 4 == 3 ? -1 : static_cast<int32_t>(i % 4 * 7);
  }
  step = sampling_step(sampling, position);
  Random random(11);
  for (size_t i = 0; i < sampling.size(); ++i) {
    step.tokens[i] = static_cast<int32_t>(3 * i + 1);
    step.edit_starts.push_back(static_cast<int32_t>(step.edits.size()));
    if (i % 5 == 4) continue;
    for (int32_t id = static_cast<int32_t>(i % 3); id < vocab; id += 1 + static_cast<int32_t>(random.below(4))) {
      const float bias = random.below(10) == 0 ? -kInfinity : random.below(2) == 0 ? 0.0f : random.uniform(-2, 2);
      step.edits.push_back({id, static_cast<int32_t>(random.below(4)) - 1, bias});
    }
  }
  step.edit_starts.push_back(static_cast<int32_t>(step.edits.size()));
  return step;
}

Told told_by_cpu(const Matrix& logits, const Step& step) {
  const auto communicators = comm::create_local(1);
  StepView view = {step.token_count(),          step.sequence_count(), 0,       step.tokens.data(), step.positions.data(),
                   step.sequence_starts.data(), step.slots.data(),     nullptr, step.sampling.data()};
  view.edit_starts = step.edit_starts.data();
  view.edits = step.edits.data();
  Told told{Tokens(step.slots.size(), -1), {}};
  Matrix copy = logits;
  cpu::sample(view, copy.view(), {0, logits.width}, *communicators[0], told.tokens.data());
  cpu::logprobs(view, copy.view(), {0, logits.width}, *communicators[0], told.tokens.data(), told.logprobs);
  return told;
}

Told told_by_rank(const cuda::Device& device, const Shard& shard, const Step& step, cuda::DeviceCommunicator& communicator) {
  const StepOnDevice on(device, step, {shard.logits.rows, shard.logits.rows, 1, step.positions[0] + 1});
  const DeviceMatrix logits(device, shard.logits);
  cuda::SampleCall call{on.step, on.shape, logits.view(), shard.spec, cuda::sample_methods(step, shard.spec.vocab_size), 0};
  call.most_columns = cuda::most_columns(logits.view().width, communicator);
  Told told;
  for (int round = 0; round < 2; ++round) {           // the same again, as a replayed graph would
    cuda::sample(device, call, communicator);
    const std::vector<float> left = logits.read("logits");
    check(std::memcmp(left.data(), shard.logits.values.data(), left.size() * sizeof(float)) == 0, "the logits are changed");
  }
  cuda::logprobs(device, call, communicator);
  told.tokens = read_int32(device, on.step.sampled, step.sequence_count());
  std::vector<TokenLogprob> rows(static_cast<size_t>(step.sequence_count()) * (1 + kMaxLogprobs));
  to_host(device, rows.data(), on.step.logprobs, rows.size() * sizeof(TokenLogprob));
  cuda::append_logprobs(step.sampling, rows.data(), told.logprobs);
  return told;
}

void check_told(const Told& told, const Told& expected, const char* what) {
  check(told.tokens == expected.tokens, what, ": tokens");
  if (!check(told.logprobs.size() == expected.logprobs.size(), what, ": number of logprobs")) return;
  for (size_t i = 0; i < told.logprobs.size(); ++i) {
    check(told.logprobs[i].id == expected.logprobs[i].id, what, ": id of logprob ", i);
    check_close(told.logprobs[i].logprob, expected.logprobs[i].logprob, 1e-5, what, ": logprob ", i);
  }
}

HEDDLE_TEST(sample_edits_and_logprobs_on_a_gpu_are_those_of_the_cpu) {
  const auto rows = static_cast<int64_t>(all_kinds().size());
  for (const int64_t vocab : {5, 61, 3000}) {
    Matrix logits = random_logits(rows, vocab, 21);
    logits.values[3] = kNan;
    const Step step = edited_step(std::min<int64_t>(vocab, 700), 9);
    if (vocab < 3 * rows) {
      Step small = step;
      for (int32_t& token : small.tokens) token %= static_cast<int32_t>(vocab);
      const cuda::Device device(0);
      SingleRank communicator(device);
      check_told(told_by_rank(device, shard_of(logits, 0, vocab, vocab, rows), small, communicator), told_by_cpu(logits, small), "small");
      continue;
    }
    const Told expected = told_by_cpu(logits, step);
    {
      const cuda::Device device(0);
      SingleRank communicator(device);
      check_told(told_by_rank(device, shard_of(logits, 0, vocab, vocab, rows + 3), step, communicator), expected, "one rank, in a bucket");
    }
    const int64_t width = (vocab + 3) / 4;
    on_ranks(4, [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
      const int64_t first = communicator.rank() * width;
      check_told(told_by_rank(device, shard_of(logits, first, first + width, width, rows), step, communicator), expected, "four ranks");
    });
  }
}

}  // namespace
}  // namespace heddle::test
