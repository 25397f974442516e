// Sampling: the distribution, the same token at every size, and logits that are no numbers.
#include <algorithm>
#include <limits>
#include <numeric>
#include <thread>

#include "comm/local/local.h"
#include "cpu/cpu_features.h"
#include "cpu/sample.h"
#include "cpu/sample_candidates.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

using cpu::Candidate;
using cpu::Noise;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

// The tokens of a step at a group size: the columns are dealt out with padding behind them, as a sharded head does.
std::vector<int32_t> sample_at(int size, const Matrix& logits, const std::vector<SamplingParams>& sampling,
                               int32_t position = 6) {
  const auto communicators = comm::create_local(size);
  const int64_t width = (logits.width + size - 1) / size;
  std::vector<std::vector<int32_t>> tokens(static_cast<size_t>(size), std::vector<int32_t>(sampling.size(), -1));
  const auto rank_body = [&](int rank) {
    Matrix mine(logits.rows, width,
                std::vector<float>(static_cast<size_t>(logits.rows * width), 1e9f));  // padding must not win
    for (int64_t row = 0; row < logits.rows; ++row) {
      for (int64_t i = rank * width; i < std::min((rank + 1) * width, logits.width); ++i) {
        mine.values[static_cast<size_t>(row * width + i - rank * width)] = logits.row(row)[i];
      }
    }
    const Step step = step_of(std::vector<int32_t>(sampling.size(), 1), position);
    const StepView view = {
        step.token_count(),          step.sequence_count(), 0,       step.tokens.data(), step.positions.data(),
        step.sequence_starts.data(), step.slots.data(),     nullptr, sampling.data()};
    cpu::sample(view, mine.view(), {rank * width, logits.width}, *communicators[static_cast<size_t>(rank)],
                tokens[static_cast<size_t>(rank)].data());
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < size; ++rank) threads.emplace_back(rank_body, rank);
  rank_body(0);
  for (std::thread& thread : threads) thread.join();
  for (const auto& other : tokens) check(other == tokens[0], "ranks disagree at size ", size);
  return tokens[0];
}

// Every kind of sampling.
std::vector<SamplingParams> all_kinds() {
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

// What Hugging Face's processors leave: temperature, top-k, top-p, min-p, renormalized.
std::vector<double> exact_distribution(const std::vector<float>& logits, const SamplingParams& params) {
  const size_t count = logits.size();
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> probabilities(count, 0.0);
  const size_t kept = params.top_k > 0 ? std::min(count, static_cast<size_t>(params.top_k)) : count;
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    total += probabilities[order[i]] =
        std::exp((double{logits[order[i]]} - logits[order[0]]) / double{params.temperature});
  }
  double before = 0;
  for (size_t i = 0; i < kept; ++i) {
    double& probability = probabilities[order[i]];
    const double own = probability / total;
    if (i > 0 && (before >= params.top_p || own < double{params.min_p} / total)) probability = 0;
    before += own;
  }
  const double left = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  for (double& probability : probabilities) probability /= left;
  return probabilities;
}

void check_distribution(const char* what, SamplingParams params) {
  const std::vector<float> logits = {1.0f, 0.2f, -0.5f, 2.0f, 0.2f, -3.0f, 1.5f, 0.9f, -0.1f, 0.6f, -1.2f, 0.0f};
  const std::vector<double> expected = exact_distribution(logits, params);
  constexpr int kDraws = 20000;
  Matrix rows(kDraws / 100, 12);
  for (int64_t i = 0; i < rows.rows; ++i) std::copy(logits.begin(), logits.end(), rows.values.begin() + i * 12);
  std::vector<int> counts(logits.size(), 0);
  for (int position = 0; position < 100; ++position) {
    std::vector<SamplingParams> sampling(static_cast<size_t>(rows.rows), params);
    for (size_t i = 0; i < sampling.size(); ++i) sampling[i].seed = i;
    for (const int32_t token : sample_at(1, rows, sampling, position)) ++counts[static_cast<size_t>(token)];
  }
  double chi_square = 0;
  int freedom = -1;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (expected[id] == 0) {
      check(counts[id] == 0, what, ": id ", id, " is excluded and was drawn ", counts[id], " times");
      continue;
    }
    const double wanted = expected[id] * kDraws;
    chi_square += (counts[id] - wanted) * (counts[id] - wanted) / wanted;
    ++freedom;
  }
  // Beyond mean + 4 deviations by chance about once in ten thousand; the draws are fixed.
  check(chi_square <= freedom + 4 * std::sqrt(2.0 * std::max(freedom, 1)), what, ": chi square ", chi_square, " with ",
        freedom, " degrees of freedom");
}

HEDDLE_TEST(sample_draws_from_the_exact_distribution) {
  check_distribution("temperature", {.temperature = 1});
  check_distribution("cold", {.temperature = 0.4f});
  check_distribution("hot", {.temperature = 3});
  check_distribution("top-k", {.temperature = 1, .top_k = 4});
  check_distribution("top-p", {.temperature = 1, .top_p = 0.75f});
  check_distribution("min-p", {.temperature = 1, .min_p = 0.15f});
  check_distribution("top-k and top-p", {.temperature = 0.9f, .top_k = 6, .top_p = 0.8f});
  check_distribution("all", {.temperature = 1.3f, .top_k = 9, .top_p = 0.9f, .min_p = 0.12f});
  check_distribution("top-p and min-p", {.temperature = 1.3f, .top_p = 0.95f, .min_p = 0.12f});
}

HEDDLE_TEST(sample_gives_the_same_tokens_at_every_size) {
  const std::vector<SamplingParams> sampling = all_kinds();
  const auto sequences = static_cast<int64_t>(sampling.size());
  for (const int64_t vocab : {1, 3, 11, 2000, 5003}) {
    for (int round = 0; round < 8; ++round) {
      Random random(static_cast<uint64_t>(round * 100 + vocab));
      Matrix logits(sequences, vocab, random.uniform_vector(static_cast<size_t>(sequences * vocab), -6, 6));
      if (round == 0) std::fill(logits.values.begin(), logits.values.end(), 0.25f);
      const std::vector<int32_t> expected = sample_at(1, logits, sampling, round);
      for (const int32_t token : expected) check(token >= 0 && token < vocab, "token ", token, " of ", vocab);
      for (const int size : {2, 3, 4})
        check(sample_at(size, logits, sampling, round) == expected, "size ", size, " vocabulary ", vocab);
    }
  }
}

HEDDLE_TEST(sample_greedy_takes_the_lowest_of_equal_ids) {
  for (const int64_t vocab : {5, 1000, 151936}) {
    Matrix logits(1, vocab, Random(2).uniform_vector(static_cast<size_t>(vocab)));
    for (const int64_t id : {vocab / 2, vocab / 3, vocab - 1}) logits.values[static_cast<size_t>(id)] = 7;
    for (const int size : {1, 2, 4}) {
      check(sample_at(size, logits, {SamplingParams{}})[0] == vocab / 3, "vocabulary ", vocab, " size ", size);
    }
  }
}

HEDDLE_TEST(sample_depends_on_seed_and_position) {
  const Matrix logits(1, 1000);
  const SamplingParams params = {.temperature = 1, .seed = 11};
  SamplingParams other = params;
  other.seed = 12;
  const int32_t token = sample_at(1, logits, {params}, 3)[0];
  check(sample_at(1, logits, {params}, 3)[0] == token, "the same seed and position");
  check(sample_at(1, logits, {other}, 3)[0] != token, "another seed");
  check(sample_at(1, logits, {params}, 4)[0] != token, "another position");
}

HEDDLE_TEST(sample_survives_logits_that_are_no_numbers) {
  const std::vector<SamplingParams> sampling = all_kinds();
  const auto sequences = static_cast<int64_t>(sampling.size());
  const auto run = [&](const std::vector<float>& row) {
    Matrix logits(sequences, static_cast<int64_t>(row.size()));
    for (int64_t i = 0; i < sequences; ++i) std::copy(row.begin(), row.end(), logits.values.begin() + i * logits.width);
    const std::vector<int32_t> tokens = sample_at(1, logits, sampling);
    for (const int size : {2, 4}) check(sample_at(size, logits, sampling) == tokens, "size ", size);
    return tokens;
  };
  for (const int32_t token : run(std::vector<float>(40, kNan))) check(token == 0, "NaN alone: token ", token);
  for (const int32_t token : run(std::vector<float>(40, -kInfinity)))
    check(token == 0, "-infinity alone: token ", token);
  std::vector<float> row(40, kNan);
  row[3] = -kInfinity;
  row[29] = -1;
  for (const int32_t token : run(row)) check(token == 29, "one number among NaN: token ", token);
  row[31] = kInfinity;
  for (const int32_t token : run(row)) check(token == 31, "infinity: token ", token);
  row.assign(40, 3e38f);
  for (const int32_t token : run(row)) check(token >= 0 && token < 40, "huge logits: token ", token);
}

HEDDLE_TEST(sample_extreme_parameters_still_choose) {
  Matrix logits(1, 50, Random(8).uniform_vector(50, -4, 4));
  const auto best =
      static_cast<int32_t>(std::max_element(logits.values.begin(), logits.values.end()) - logits.values.begin());
  const std::vector<SamplingParams> greedy_like = {{.temperature = 1e-30f},
                                                   {.temperature = 1e-40f, .top_k = 5},
                                                   {.temperature = 1e-40f, .top_p = 0.9f},
                                                   {.temperature = 1, .top_p = 0},
                                                   {.temperature = 1, .top_k = 7, .top_p = 1e-9f},
                                                   {.temperature = 1, .min_p = 1},
                                                   {.temperature = 1, .top_p = 0.99f, .min_p = 1},
                                                   {.temperature = 1, .top_k = 1},
                                                   {.temperature = kNan},
                                                   {.temperature = -1}};
  for (const SamplingParams& params : greedy_like) {
    for (const int size : {1, 3})
      check(sample_at(size, logits, {params})[0] == best, "temperature ", params.temperature, " top-p ", params.top_p);
  }
}

HEDDLE_TEST(sample_best_candidates_are_the_sorted_front) {
  Random random(12);
  for (const int64_t count : {1, 10, 300, 4000}) {
    for (const int64_t wanted : {1, 2, 20, 300, 1024}) {
      std::vector<float> logits = random.uniform_vector(static_cast<size_t>(count));
      for (float& logit : logits) logit = std::round(logit * 50);  // many are equal
      logits[static_cast<size_t>(random.below(count))] = kInfinity;
      if (count > 5) logits[static_cast<size_t>(random.below(count))] = kNan;
      std::vector<Candidate> expected;
      for (int64_t i = 0; i < count; ++i) {
        if (logits[static_cast<size_t>(i)] > -kInfinity)
          expected.push_back({logits[static_cast<size_t>(i)], 100 + static_cast<int32_t>(i)});
      }
      std::sort(expected.begin(), expected.end(),
                [](const Candidate& a, const Candidate& b) { return cpu::before(a, b); });
      expected.resize(std::min(expected.size(), static_cast<size_t>(wanted)));
      std::vector<Candidate> actual;
      cpu::best_candidates({logits.data(), count, 100}, wanted, actual);
      const bool equal = actual.size() == expected.size() && std::equal(actual.begin(), actual.end(), expected.begin(),
                                                                        [](const Candidate& a, const Candidate& b) {
                                                                          return a.logit == b.logit && a.id == b.id;
                                                                        });
      check(equal, wanted, " of ", count);
    }
  }
}

HEDDLE_TEST(sample_noise_is_gumbel_and_bounded) {
  double sum = 0, squares = 0;
  constexpr int kCount = 200000;
  for (int i = 0; i < kCount; ++i) {
    const uint64_t bits = Noise(static_cast<uint64_t>(i % 100), i / 10000).bits(i);
    const double value = Noise::value(bits);
    check(value <= Noise::bound(bits) && value <= cpu::kLargestNoise, "noise ", value, " above its bound");
    sum += value;
    squares += value * value;
  }
  const double mean = sum / kCount;
  check_close(mean, 0.5772157, 0.01, "mean");
  check_close(squares / kCount - mean * mean, M_PI * M_PI / 6, 0.03, "variance");
  check(Noise::value(~uint64_t{0}) <= cpu::kLargestNoise && Noise::value(~uint64_t{0}) <= Noise::bound(~uint64_t{0}),
        "largest noise");
  check(std::isfinite(Noise::value(0)), "smallest noise");
}

}  // namespace
}  // namespace heddle::test
