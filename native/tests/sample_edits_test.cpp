// Bias, penalties and log-probabilities on the CPU: against plain formulas in double precision, at every size, and the logits left as
// they were.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <thread>

#include "comm/local/local.h"
#include "cpu/logprobs.h"
#include "cpu/sample.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

const float kInfinity = std::numeric_limits<float>::infinity();

struct Sampled {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;
};

StepView view_of(const Step& step) {
  StepView view = {step.token_count(),          step.sequence_count(), 0,       step.tokens.data(), step.positions.data(),
                   step.sequence_starts.data(), step.slots.data(),     nullptr, step.sampling.data()};
  if (!step.edits.empty()) view.edit_starts = step.edit_starts.data();
  view.edits = step.edits.data();
  return view;
}

// The step at a group size: the columns are dealt out with padding behind them, which must neither win nor be changed.
Sampled sample_at(int size, const Matrix& logits, const Step& step) {
  const auto communicators = comm::create_local(size);
  const int64_t width = (logits.width + size - 1) / size;
  std::vector<Sampled> results(static_cast<size_t>(size));
  const auto rank_body = [&](int rank) {
    Matrix mine(logits.rows, width, std::vector<float>(static_cast<size_t>(logits.rows * width), 1e9f));
    for (int64_t row = 0; row < logits.rows; ++row) {
      const float* from = logits.row(row) + std::min(rank * width, logits.width);
      std::copy(from, logits.row(row) + std::min((rank + 1) * width, logits.width), mine.values.begin() + row * width);
    }
    const std::vector<float> before = mine.values;
    Sampled& result = results[static_cast<size_t>(rank)];
    result.tokens.resize(step.slots.size());
    Communicator& communicator = *communicators[static_cast<size_t>(rank)];
    cpu::sample(view_of(step), mine.view(), {rank * width, logits.width}, communicator, result.tokens.data());
    const bool same = std::memcmp(mine.values.data(), before.data(), before.size() * sizeof(float)) == 0;
    check(same, "the logits of rank ", rank, " are changed");
    cpu::logprobs(view_of(step), mine.view(), {rank * width, logits.width}, communicator, result.tokens.data(), result.logprobs);
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < size; ++rank) threads.emplace_back(rank_body, rank);
  rank_body(0);
  for (std::thread& thread : threads) thread.join();
  for (const Sampled& other : results) check(other.tokens == results[0].tokens, "ranks disagree at size ", size);
  return results[0];
}

// The logits that a sequence is to be sampled from, by the words of LogitEdit.
std::vector<float> plainly_edited(const std::vector<float>& logits, const Step& step) {
  const SamplingParams& params = step.sampling[0];
  std::map<int32_t, LogitEdit> edits;
  for (const LogitEdit& edit : step.edits) edits[edit.id] = edit;
  if (params.has_penalties() && step.positions.back() >= params.answer_start) {
    LogitEdit& last = edits.try_emplace(step.tokens.back(), LogitEdit{step.tokens.back(), 0, 0}).first->second;
    last.count = std::max(last.count, 0) + 1;
  }
  std::vector<float> result = logits;
  for (const auto& [id, edit] : edits) {
    double logit = double{logits[static_cast<size_t>(id)]} + edit.bias;
    if (edit.count >= 0) logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (edit.count > 0) logit -= double{params.presence_penalty} + double{params.frequency_penalty} * edit.count;
    result[static_cast<size_t>(id)] = static_cast<float>(logit);
  }
  return result;
}

Step edited_step(SamplingParams params, std::vector<LogitEdit> edits, int32_t last_token, int32_t position) {
  Step step = step_of({1}, position);
  step.tokens = {last_token};
  step.sampling = {params};
  step.edit_starts = {0, static_cast<int32_t>(edits.size())};
  step.edits = std::move(edits);
  return step;
}

// Greedy over the edited logits, row after row; a wrong formula, order or count moves some maximum.
void check_edits(const char* what, SamplingParams params, const std::vector<LogitEdit>& edits, int32_t last_token, int32_t position) {
  Random random(7);
  int moved = 0;
  for (int round = 0; round < 400; ++round) {
    const std::vector<float> row = random.uniform_vector(23, -1.5f, 1.5f);
    const Step step = edited_step(params, edits, last_token, position);
    const std::vector<float> expected = plainly_edited(row, step);
    const auto best = static_cast<int32_t>(std::max_element(expected.begin(), expected.end()) - expected.begin());
    for (const int size : {1, 2, 4}) {
      const Sampled sampled = sample_at(size, Matrix(1, 23, row), step);
      check(sampled.tokens[0] == best, what, ": expected ", best, " at size ", size, ", got ", sampled.tokens[0]);
    }
    moved += best != std::max_element(row.begin(), row.end()) - row.begin();
  }
  check(moved > 10, what, ": changed ", moved, " of 400 choices");
}

const std::vector<LogitEdit> kSeen = {{0, 0, 0}, {3, 1, 0}, {7, 4, 0}, {11, 0, 0}, {12, 2, 0}, {22, 1, 0}};

HEDDLE_TEST(sample_edits_follow_the_formulas) {
  check_edits("bias", {}, {{2, -1, 0.5f}, {5, -1, -1}, {20, -1, 0.3f}}, 2, 5);
  check_edits("ban", {}, {{2, -1, -kInfinity}, {5, -1, -kInfinity}, {20, -1, -kInfinity}}, 2, 5);
  check_edits("repetition", {.repetition_penalty = 1.4f}, kSeen, 1, 5);
  check_edits("repetition below 1", {.repetition_penalty = 0.7f}, kSeen, 1, 5);
  check_edits("presence", {.presence_penalty = 0.6f}, kSeen, 1, 5);
  check_edits("frequency", {.frequency_penalty = 0.2f}, kSeen, 1, 5);
  check_edits("all", {.repetition_penalty = 1.2f, .presence_penalty = 0.3f, .frequency_penalty = -0.15f},
              {{0, 0, 0.3f}, {3, 1, -0.2f}, {7, 4, 0}, {9, -1, 0.4f}}, 1, 5);
}

HEDDLE_TEST(sample_edits_count_the_last_token_of_an_answer) {
  const SamplingParams params = {.repetition_penalty = 1.3f, .presence_penalty = 0.5f, .frequency_penalty = 0.4f, .answer_start = 5};
  check_edits("new", params, kSeen, 4, 5);
  check_edits("alone", params, {}, 4, 9);
  check_edits("listed", params, kSeen, 7, 6);
  check_edits("listed of the prompt", params, kSeen, 11, 6);
  check_edits("listed for its bias", params, {{4, -1, 0.7f}, {5, 2, 0}}, 4, 6);
  check_edits("in the prompt", params, kSeen, 4, 4);
}

HEDDLE_TEST(sample_edits_reach_every_method_alike) {
  const std::vector<SamplingParams> kinds = {{.temperature = 1, .seed = 1},
                                             {.temperature = 1, .min_p = 0.05f, .seed = 2},
                                             {.temperature = 1, .top_k = 5, .seed = 3},
                                             {.temperature = 1, .top_p = 0.9f, .seed = 4}};
  for (SamplingParams params : kinds) {
    params.repetition_penalty = 1.1f;
    params.answer_start = 0;
    const std::vector<float> row = Random(3).uniform_vector(50, -2, 2);
    for (int32_t position = 0; position < 60; ++position) {
      const Step step = edited_step(params, {{7, 1, 4}, {8, 0, 4}, {9, -1, -kInfinity}}, 7, position);
      Step plain = edited_step(params, {}, 0, position);
      plain.sampling[0].repetition_penalty = 1;
      plain.edit_starts.clear();
      const Sampled expected = sample_at(1, Matrix(1, 50, plainly_edited(row, step)), plain);
      for (const int size : {1, 2, 4}) {
        check(sample_at(size, Matrix(1, 50, row), step).tokens == expected.tokens, "size ", size, ", position ", position);
      }
    }
  }
}

HEDDLE_TEST(logprobs_are_those_of_a_softmax_at_every_size) {
  constexpr int64_t kVocab = 301;
  const Matrix logits(4, kVocab, Random(9).uniform_vector(4 * kVocab, -9, 9));
  Step step = step_of({1, 1, 1, 1}, 3);
  step.sampling = {{.temperature = 2, .seed = 1, .logprobs = 20},
                   {.temperature = 2, .seed = 2},
                   {.temperature = 2, .seed = 3, .presence_penalty = 5, .answer_start = 0, .logprobs = 0},
                   {.logprobs = 3}};
  for (const int size : {1, 2, 3, 8}) {
    const Sampled sampled = sample_at(size, logits, step);
    size_t next = 0;
    for (size_t i = 0; i < step.sampling.size(); ++i) {
      const int32_t count = step.sampling[i].logprobs;
      if (count < 0) continue;
      const float* row = logits.row(static_cast<int64_t>(i));
      double total = 0;
      for (int64_t id = 0; id < kVocab; ++id) total += std::exp(double{row[id]});
      std::vector<int32_t> order(kVocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      for (int32_t k = 0; k <= count; ++k) {
        if (!check(next < sampled.logprobs.size(), "too few logprobs")) return;
        const TokenLogprob& found = sampled.logprobs[next++];
        const int32_t id = k == 0 ? sampled.tokens[i] : order[static_cast<size_t>(k - 1)];
        check(found.id == id, "size ", size, ", sequence ", i, ": expected id ", id, ", got ", found.id);
        check_close(found.logprob, double{row[id]} - std::log(total), 2e-6, "logprob of ", id);
      }
    }
    check(next == sampled.logprobs.size(), "too many logprobs");
  }
}

HEDDLE_TEST(logprobs_of_small_vocabularies_and_no_numbers) {
  Step step = step_of({1, 1}, 3);
  step.sampling = {{.logprobs = 20}, {.logprobs = 1}};
  const Matrix logits(2, 3, {0, std::numeric_limits<float>::quiet_NaN(), -kInfinity, -kInfinity, -kInfinity, -kInfinity});
  for (const int size : {1, 2, 4}) {
    const std::vector<TokenLogprob> found = sample_at(size, logits, step).logprobs;
    if (!check(found.size() == 23, "expected 23, got ", found.size())) continue;
    check(found[0].id == 0 && found[0].logprob == 0, "the only number is certain");
    check(found[1].id == 0 && found[2].id == -1 && found[20].id == -1, "what is missing is -1");
    check(found[21].id == 0 && found[22].id == -1, "a row without numbers");
  }
}

}  // namespace
}  // namespace heddle::test
