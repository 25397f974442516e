#include "cpu/sample.h"

#include <algorithm>
#include <vector>

#include "cpu/exchange.h"
#include "cpu/logit_edits.h"
#include "cpu/sample_candidates.h"

namespace heddle::cpu {

namespace {

enum class Method {
  greedy,       // best candidate of each rank
  noise,        // best noisy score of each rank
  noise_min_p,  // the same, once the largest logit is known
  top_k,        // best k candidates of each rank
  all,          // all logits
};

Method method_of(const SamplingParams& params, int64_t vocab_size) {
  if (!(params.temperature > 0)) return Method::greedy;
  const bool top_k = params.top_k > 0 && params.top_k < vocab_size;
  if (top_k && params.top_k <= kMaxExchangedCandidates) return Method::top_k;
  if (top_k || params.top_p < 1) return Method::all;
  return params.min_p > 0 ? Method::noise_min_p : Method::noise;
}

template <class T>
T best_of(const std::vector<T>& found) {
  return *std::min_element(found.begin(), found.end(), [](const T& a, const T& b) { return before(a, b); });
}

int32_t id_of(int32_t id) { return id == kNoId ? 0 : id; }

struct Columns {
  int32_t first_id = 0;
  int32_t count = 0;
};

class Sampler {
 public:
  Sampler(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, int32_t* tokens)
      : step_(step), logits_(logits), vocab_size_(spec.vocab_size), communicator_(communicator), tokens_(tokens) {
    const int64_t count = std::clamp<int64_t>(spec.vocab_size - spec.first_id, 0, logits.width);
    columns_ = {static_cast<int32_t>(spec.first_id), static_cast<int32_t>(count)};
  }

  void run() {
    exchange_findings();
    exchange_rest();
  }

 private:
  LogitRow row(int64_t sequence) const {
    return {logits_.floats() + sequence * logits_.width, columns_.count, columns_.first_id};
  }
  const SamplingParams& params(int64_t sequence) const { return step_.sampling[sequence]; }
  Method method(int64_t sequence) const { return method_of(params(sequence), vocab_size_); }
  Noise noise(int64_t sequence) const {
    const int32_t last = step_.positions[step_.sequence_starts[sequence + 1] - 1];
    return Noise(params(sequence).seed, int64_t{last} + 1);
  }

  // First round: what each rank can say from its own columns.
  void exchange_findings() {
    Exchange exchange(communicator_);
    exchange.put(&columns_, 1);
    for (int64_t i = 0; i < step_.sequence_count; ++i) put_findings(exchange, i);
    exchange.run();
    all_columns_ = exchange.take<Columns>(1);
    largest_.resize(static_cast<size_t>(step_.sequence_count));
    for (int64_t i = 0; i < step_.sequence_count; ++i) take_findings(exchange, i);
  }

  void put_findings(Exchange& exchange, int64_t sequence) {
    switch (method(sequence)) {
      case Method::greedy:
      case Method::noise_min_p: {
        const Candidate best = best_candidate(row(sequence));
        return exchange.put(&best, 1);
      }
      case Method::noise: {
        const Pick best = noisy_pick(row(sequence), params(sequence), 0, noise(sequence));
        return exchange.put(&best, 1);
      }
      case Method::top_k: {
        const auto count = static_cast<size_t>(params(sequence).top_k);
        best_candidates(row(sequence), params(sequence).top_k, candidates_);
        candidates_.resize(count);
        return exchange.put(candidates_.data(), count);
      }
      case Method::all: return;
    }
  }

  void take_findings(Exchange& exchange, int64_t sequence) {
    switch (method(sequence)) {
      case Method::greedy: tokens_[sequence] = id_of(best_of(exchange.take<Candidate>(1)).id); return;
      case Method::noise_min_p:
        largest_[static_cast<size_t>(sequence)] = best_of(exchange.take<Candidate>(1)).logit;
        return;
      case Method::noise: tokens_[sequence] = id_of(best_of(exchange.take<Pick>(1)).id); return;
      case Method::top_k: tokens_[sequence] = choose_top_k(exchange, sequence); return;
      case Method::all: return;
    }
  }

  int32_t choose_top_k(Exchange& exchange, int64_t sequence) const {
    const auto count = static_cast<size_t>(params(sequence).top_k);
    std::vector<Candidate> found = exchange.take<Candidate>(count);
    std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) { return before(a, b); });
    found.resize(count);
    while (!found.empty() && found.back().id == kNoId) found.pop_back();
    return choose(found, params(sequence), noise(sequence));
  }

  // Second round, only where some sequence needs it: picks above the common min-p bound, and whole rows.
  void exchange_rest() {
    Exchange exchange(communicator_);
    size_t most = 0;
    for (const Columns& columns : all_columns_) most = std::max(most, static_cast<size_t>(columns.count));
    bool needed = false;
    for (int64_t i = 0; i < step_.sequence_count; ++i) needed = put_rest(exchange, i, most) || needed;
    if (!needed) return;
    exchange.run();
    for (int64_t i = 0; i < step_.sequence_count; ++i) take_rest(exchange, i, most);
  }

  bool put_rest(Exchange& exchange, int64_t sequence, size_t most) const {
    const Method how = method(sequence);
    if (how == Method::noise_min_p) {
      const Pick best =
          noisy_pick(row(sequence), params(sequence), largest_[static_cast<size_t>(sequence)], noise(sequence));
      exchange.put(&best, 1);
    } else if (how == Method::all) {
      std::vector<float> mine(row(sequence).logits, row(sequence).logits + columns_.count);
      mine.resize(most);
      exchange.put(mine.data(), most);
    }
    return how == Method::noise_min_p || how == Method::all;
  }

  void take_rest(Exchange& exchange, int64_t sequence, size_t most) {
    const Method how = method(sequence);
    if (how == Method::noise_min_p) tokens_[sequence] = id_of(best_of(exchange.take<Pick>(1)).id);
    if (how == Method::all) tokens_[sequence] = choose_all(exchange.take<float>(most), sequence, most);
  }

  int32_t choose_all(const std::vector<float>& gathered, int64_t sequence, size_t most) const {
    std::vector<float> whole;
    whole.reserve(static_cast<size_t>(vocab_size_));
    for (size_t rank = 0; rank < all_columns_.size(); ++rank) {
      const float* from = gathered.data() + rank * most;
      whole.insert(whole.end(), from, from + all_columns_[rank].count);
    }
    return choose_from_all({whole.data(), static_cast<int64_t>(whole.size()), 0}, params(sequence), noise(sequence));
  }

  const StepView& step_;
  View logits_;
  int64_t vocab_size_;
  Communicator& communicator_;
  int32_t* tokens_;
  Columns columns_;                   // of this rank, padding left out
  std::vector<Columns> all_columns_;  // of every rank
  std::vector<float> largest_;        // [sequences] largest logit, for min-p
  std::vector<Candidate> candidates_;
};

}  // namespace

void sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, int32_t* tokens) {
  const LogitEdits edits(step, logits, spec);
  Sampler(step, logits, spec, communicator, tokens).run();
}

}  // namespace heddle::cpu
