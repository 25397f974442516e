#include "cpu/logprobs.h"

#include <algorithm>
#include <cmath>

#include "cpu/exchange.h"
#include "cpu/row_kernels.h"
#include "cpu/sample_candidates.h"

namespace heddle::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// What a rank knows of a row; behind it in the message its best candidates.
struct Finding {
  double total = 0;                                   // of exp(logit - largest)
  float largest = kMinusInfinity;
  float chosen = kMinusInfinity;                      // logit of the chosen token, where this rank has it
};

Finding find(const LogitRow& row, int32_t token, std::vector<float>& scratch) {
  Finding finding;
  finding.largest = row_kernels().maximum(row.logits, row.count);
  if (finding.largest == kMinusInfinity) return finding;
  scratch.resize(static_cast<size_t>(row.count));
  finding.total = row_kernels().weights(row.logits, row.count, finding.largest, 1.0f, scratch.data());
  const int64_t column = token - row.first_id;
  if (column >= 0 && column < row.count) finding.chosen = row.logits[column];
  return finding;
}

// Logarithm of the sum of exp(logit) over all ranks; -infinity where there is no number.
double log_total(const std::vector<Finding>& findings) {
  float largest = kMinusInfinity;
  for (const Finding& finding : findings) largest = std::max(largest, finding.largest);
  double total = 0;
  for (const Finding& finding : findings) {
    if (finding.total > 0) total += finding.total * std::exp(double{finding.largest} - largest);
  }
  return largest + std::log(total);
}

void tell(const std::vector<Finding>& findings, std::vector<Candidate>& best, size_t count, int32_t token,
          std::vector<TokenLogprob>& found) {
  const double total = log_total(findings);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - total); };
  float chosen = kMinusInfinity;
  for (const Finding& finding : findings) chosen = std::max(chosen, finding.chosen);
  found.push_back({token, logprob(chosen)});
  std::sort(best.begin(), best.end(), [](const Candidate& a, const Candidate& b) { return before(a, b); });
  for (size_t i = 0; i < count; ++i) {
    if (best[i].id == kNoId) found.push_back({-1, kMinusInfinity});
    else found.push_back({best[i].id, logprob(best[i].logit)});
  }
}

}  // namespace

void logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, const int32_t* tokens,
              std::vector<TokenLogprob>& found) {
  const int64_t columns = std::clamp<int64_t>(spec.vocab_size - spec.first_id, 0, logits.width);
  Exchange exchange(communicator);
  std::vector<Candidate> best;
  std::vector<float> scratch;
  for (int64_t i = 0; i < step.sequence_count; ++i) {
    const int32_t count = step.sampling[i].logprobs;
    if (count < 0) continue;
    const LogitRow row = {logits.floats() + i * logits.width, columns, static_cast<int32_t>(spec.first_id)};
    const Finding finding = find(row, tokens[i], scratch);
    exchange.put(&finding, 1);
    best_candidates(row, count, best);
    best.resize(static_cast<size_t>(count));
    exchange.put(best.data(), best.size());
  }
  exchange.run();
  for (int64_t i = 0; i < step.sequence_count; ++i) {
    if (step.sampling[i].logprobs < 0) continue;
    const auto count = static_cast<size_t>(step.sampling[i].logprobs);
    const std::vector<Finding> findings = exchange.take<Finding>(1);
    best = exchange.take<Candidate>(count);
    tell(findings, best, count, tokens[i], found);
  }
}

}  // namespace heddle::cpu
