// Of a row of logits softmax, of which the largest stay; the order is by value, then by place.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/operations.h"

namespace heddle::cpu {
namespace {

// The place of the largest of what comes after x[last] in that order; -1 where nothing does, NaN left out.
int64_t next_largest(const float* x, int64_t count, int64_t last) {
  int64_t best = -1;
  for (int64_t i = 0; i < count; ++i) {
    const bool after = last < 0 ? x[i] == x[i] : x[i] < x[last] || (x[i] == x[last] && i > last);
    if (after && (best < 0 || x[i] > x[best])) best = i;
  }
  return best;
}

}  // namespace

void route(View x, const RouteSpec& spec, View y) {
  for (int64_t row = 0; row < y.rows; ++row) {
    const float* logits = x.floats() + row * x.width;
    float* weights = y.floats() + row * y.width;
    int64_t chosen = next_largest(logits, x.width, -1);
    const float largest = chosen < 0 ? 0.0f : logits[chosen];
    float all = 0;
    for (int64_t i = 0; i < x.width; ++i) all += std::exp(logits[i] - largest);
    float sum = 0;
    std::fill_n(weights, y.width, 0.0f);
    for (int64_t i = 0; i < spec.experts_per_token && chosen >= 0; ++i) {
      weights[chosen] = std::exp(logits[chosen] - largest);
      sum += weights[chosen];
      chosen = next_largest(logits, x.width, chosen);
    }
    const float total = spec.normalized ? sum : all;
    for (int64_t i = 0; i < y.width; ++i) weights[i] = weights[i] == 0 ? 0.0f : weights[i] / total;
  }
}

}  // namespace heddle::cpu
