#include "cpu/sample_candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/row_kernels.h"

namespace heddle::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

uint64_t mix(uint64_t z) {  // the finalizer of splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

// Probability relative to that of the largest logit.
double weight(float logit, float largest, double temperature) {
  return logit == largest ? 1.0 : std::exp((static_cast<double>(logit) - largest) / temperature);
}

double score(float logit, double temperature) { return static_cast<double>(logit) / temperature; }

// How many of the candidates, best first, top-p keeps: those before which less than top_p of the mass lies.
size_t nucleus(const std::vector<Candidate>& candidates, const SamplingParams& params, double total) {
  const double wanted = static_cast<double>(params.top_p) * total;
  double mass = 0;
  size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || mass < wanted)) {
    mass += weight(candidates[kept].logit, candidates.front().logit, params.temperature);
    ++kept;
  }
  return kept;
}

double mass_of(const std::vector<Candidate>& candidates, double temperature) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += weight(candidate.logit, candidates.front().logit, temperature);
  return total;
}

// Min-p over the first `count` candidates, then the best noisy score.
int32_t pick(const std::vector<Candidate>& candidates, size_t count, const SamplingParams& params, const Noise& noise) {
  Pick best;
  for (size_t i = 0; i < count; ++i) {
    const auto [logit, id] = candidates[i];
    if (weight(logit, candidates.front().logit, params.temperature) < std::min(params.min_p, 1.0f)) continue;
    const Pick found = {score(logit, params.temperature) + Noise::value(noise.bits(id)), id};
    if (before(found, best)) best = found;
  }
  return best.id == kNoId ? 0 : best.id;
}

std::vector<Candidate> usable_candidates(const LogitRow& row) {
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(row.count));
  for (int64_t i = 0; i < row.count; ++i) {
    if (row.logits[i] > kMinusInfinity) candidates.push_back({row.logits[i], row.first_id + static_cast<int32_t>(i)});
  }
  return candidates;
}

// Top-p over the whole vocabulary. What is before a token in the order has less than top_p of the mass only if the
// token and all after it have more than the rest; they have at most its weight times their number. So lighter ones
// are left out before the sort.
int32_t choose_nucleus(const LogitRow& row, const SamplingParams& params, const Noise& noise) {
  const float largest = row_kernels().maximum(row.logits, row.count);
  if (largest == kMinusInfinity) return 0;
  std::vector<float> weights(static_cast<size_t>(row.count));
  const double total = row_kernels().weights(row.logits, row.count, largest, 1.0f / params.temperature, weights.data());
  const double tail = (1.0 - static_cast<double>(params.top_p)) * total / static_cast<double>(row.count);
  const auto bound = static_cast<float>(tail * 0.999);  // the weights are rounded
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < row.count; ++i) {
    if (weights[static_cast<size_t>(i)] >= bound && row.logits[i] > kMinusInfinity) {
      candidates.push_back({row.logits[i], row.first_id + static_cast<int32_t>(i)});
    }
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return before(a, b); });
  return pick(candidates, nucleus(candidates, params, total), params, noise);
}

}  // namespace

Noise::Noise(uint64_t seed, int64_t position)
    : key_(mix(mix(seed + kGolden) ^ (static_cast<uint64_t>(position) * 0xd1b54a32d192ed03u))) {}

uint64_t Noise::bits(int32_t id) const { return mix(key_ + (static_cast<uint64_t>(id) + 1) * kGolden); }

double Noise::value(uint64_t bits) {
  const double uniform = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;  // exact, so never 0 or 1
  return -std::log(-std::log(uniform));
}

// With n leading ones 1 - uniform exceeds 2^-(n + 1), so -log(uniform) does too.
double Noise::bound(uint64_t bits) { return (std::countl_one(bits) + 1) * 0.6931471805599454; }

Candidate best_candidate(const LogitRow& row) {
  const float largest = row_kernels().maximum(row.logits, row.count);
  if (largest == kMinusInfinity) return {};
  return {largest, row.first_id + static_cast<int32_t>(row_kernels().first_at_least(row.logits, row.count, largest))};
}

void best_candidates(const LogitRow& row, int64_t count, std::vector<Candidate>& best) {
  const auto order = [](const Candidate& a, const Candidate& b) {
    return before(a, b);
  };  // the heap's front is the worst
  best.clear();
  int64_t i = 0;
  for (; i < row.count && static_cast<int64_t>(best.size()) < count; ++i) {
    if (row.logits[i] > kMinusInfinity) best.push_back({row.logits[i], row.first_id + static_cast<int32_t>(i)});
  }
  std::make_heap(best.begin(), best.end(), order);
  while (i < row.count && !best.empty()) {
    const float above = std::nextafter(best.front().logit, std::numeric_limits<float>::infinity());
    i += row_kernels().first_at_least(row.logits + i, row.count - i, above);
    if (i >= row.count || !(row.logits[i] > best.front().logit)) break;  // the second: the worst kept is +infinity
    std::pop_heap(best.begin(), best.end(), order);
    best.back() = {row.logits[i], row.first_id + static_cast<int32_t>(i)};
    std::push_heap(best.begin(), best.end(), order);
    ++i;
  }
  std::sort(best.begin(), best.end(), order);
}

Pick noisy_pick(const LogitRow& row, const SamplingParams& params, float largest_logit, const Noise& noise) {
  const double temperature = params.temperature;
  const double lowest = params.min_p > 0 ? largest_logit + temperature * std::log(std::min(params.min_p, 1.0f))
                                         : -std::numeric_limits<double>::infinity();
  Pick best;
  const auto consider = [&](float logit, int32_t id) {
    const double base = score(logit, temperature);
    if (!(base + kLargestNoise > best.score) || logit < lowest) return;
    const uint64_t bits = noise.bits(id);
    if (base + Noise::bound(bits) < best.score) return;
    const Pick found = {base + Noise::value(bits), id};
    if (before(found, best)) best = found;
  };
  const Candidate likely = best_candidate(row);  // first, so that most others need no logarithm
  if (likely.id == kNoId) return {};
  consider(likely.logit, likely.id);
  for (int64_t i = 0; i < row.count; ++i) consider(row.logits[i], row.first_id + static_cast<int32_t>(i));
  return best;
}

int32_t choose(const std::vector<Candidate>& candidates, const SamplingParams& params, const Noise& noise) {
  if (candidates.empty()) return 0;
  const bool cut = params.top_p < 1.0f;
  const size_t kept = cut ? nucleus(candidates, params, mass_of(candidates, params.temperature)) : candidates.size();
  return pick(candidates, kept, params, noise);
}

int32_t choose_from_all(const LogitRow& row, const SamplingParams& params, const Noise& noise) {
  if (params.top_k <= 0 || params.top_k >= row.count) return choose_nucleus(row, params, noise);
  std::vector<Candidate> best = usable_candidates(row);
  const auto order = [](const Candidate& a, const Candidate& b) { return before(a, b); };
  if (const auto count = static_cast<size_t>(params.top_k); best.size() > count) {
    std::nth_element(best.begin(), best.begin() + params.top_k, best.end(), order);
    best.resize(count);
  }
  std::sort(best.begin(), best.end(), order);
  return choose(best, params, noise);
}

}  // namespace heddle::cpu
