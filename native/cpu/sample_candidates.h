// Sampling as pure functions of logits: what one rank finds in its columns, and the choice that every rank makes from
// all findings. Rule: a token's score depends on its logit, the sampling parameters, the position and its id alone.
// NaN and -infinity are never chosen while any other logit is there; where there is none, id 0 is.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "core/message.h"

namespace heddle::cpu {

constexpr int32_t kNoId = std::numeric_limits<int32_t>::max();

struct Candidate {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t id = kNoId;
};

// Highest logit first; of equal ones the lowest id.
inline bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

struct Pick {
  double score = -std::numeric_limits<double>::infinity();
  int32_t id = kNoId;
};

inline bool before(const Pick& a, const Pick& b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

// The logits of consecutive ids.
struct LogitRow {
  const float* logits = nullptr;
  int64_t count = 0;
  int32_t first_id = 0;
};

// Gumbel noise keyed by (seed, position of the token being made, id): the argmax of logit / temperature + noise is a
// draw from the softmax.
class Noise {
 public:
  Noise(uint64_t seed, int64_t position);
  uint64_t bits(int32_t id) const;
  static double value(uint64_t bits);
  // Not below value(bits), without a logarithm.
  static double bound(uint64_t bits);

 private:
  uint64_t key_;
};

// No noise exceeds this.
constexpr double kLargestNoise = 37.5;

Candidate best_candidate(const LogitRow& row);
// The best `count` of the row, best first, into `best` (fewer where the row has fewer).
void best_candidates(const LogitRow& row, int64_t count, std::vector<Candidate>& best);

// The best noisy score among the ids whose probability is at least min_p times that of `largest_logit`.
Pick noisy_pick(const LogitRow& row, const SamplingParams& params, float largest_logit, const Noise& noise);

// The token from the candidates that top-k left, best first: top-p, then min-p, then noise.
int32_t choose(const std::vector<Candidate>& candidates, const SamplingParams& params, const Noise& noise);

// The same from all logits of the vocabulary, row.first_id 0; top_k 0 is off.
int32_t choose_from_all(const LogitRow& row, const SamplingParams& params, const Noise& noise);

}  // namespace heddle::cpu
